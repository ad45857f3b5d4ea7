"""Whom answers are told to once they are kept: listeners here and at other replicas, and cameras."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from facewire.messages import RecognizedFaces
from facewire_gateway.feed import Feed

Publish = Callable[[Sequence[RecognizedFaces]], Awaitable[None]]


class Audience(Protocol):
    """Hears of each answer once, at the gateway that has kept it."""

    async def tell(self, kept: Sequence[RecognizedFaces], refused: Sequence[RecognizedFaces]) -> None:
        """Tell everybody of answers that were `kept`, and senders of those that `refused` their message."""


class Awaiting(Protocol):
    """Where requests wait for their answers: the outbox."""

    async def forget(self, request_ids: Sequence[str]) -> None:
        """Keep nothing more of requests that have their answer."""


@dataclass(frozen=True, slots=True)
class SoleGateway(Audience):
    """The audience of a gateway that is alone: all listeners are its own."""

    feed: Feed
    publish: Publish

    async def tell(self, kept: Sequence[RecognizedFaces], refused: Sequence[RecognizedFaces]) -> None:
        """Tell listeners of what was kept, and cameras of everything."""
        self.feed.publish(kept)
        await self.publish([*kept, *refused])


@dataclass(frozen=True, slots=True)
class Replica(Audience):
    """The audience of one gateway out of several, which all listen to what any of them publishes.

    Only long polls of its own are told at once: its event streams would get everything twice.
    """

    feed: Feed
    publish: Publish
    outbox: Awaiting

    async def tell(self, kept: Sequence[RecognizedFaces], refused: Sequence[RecognizedFaces]) -> None:
        """Wake those who wait here, publish everything, and end the hand-over of requests that have their answer."""
        self.feed.wake(kept)
        await self.publish([*kept, *refused])
        await self.outbox.forget([answer.request_id for answer in kept])
