"""Whom answers are told to once they are kept: listeners here and at other replicas, and cameras."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from facewire.domain.messages import RecognizedFaces
from facewire_gateway.delivery.feed import Feed

Publish = Callable[[Sequence[RecognizedFaces]], Awaitable[None]]


class Notifier(Protocol):
    """Hears of each answer at the gateway that has kept it; again where that gateway may not have told of it."""

    async def tell(self, kept: Sequence[RecognizedFaces], others: Sequence[RecognizedFaces]) -> None:
        """Tell everybody of answers that were `kept`, and the senders alone of `others`."""


class Awaiting(Protocol):
    """Where requests wait for their answers: the outbox."""

    async def forget(self, requests: Sequence[tuple[str, datetime]]) -> None:
        """Keep nothing more of requests, by id and receipt, that have their answer."""


@dataclass(frozen=True, slots=True)
class LocalNotifier(Notifier):
    """The notifier of a gateway that is alone: all listeners are its own."""

    feed: Feed
    publish: Publish

    async def tell(self, kept: Sequence[RecognizedFaces], others: Sequence[RecognizedFaces]) -> None:
        """Tell listeners of what was kept, and cameras of everything."""
        self.feed.publish(kept)
        await self.publish([*kept, *others])


@dataclass(frozen=True, slots=True)
class ReplicatedNotifier(Notifier):
    """The notifier of one gateway out of several, which all listen to what any of them publishes.

    Its own listeners are told at once, whatever becomes of the message to the others.
    """

    feed: Feed
    publish: Publish
    outbox: Awaiting

    async def tell(self, kept: Sequence[RecognizedFaces], others: Sequence[RecognizedFaces]) -> None:
        """Tell listeners here, publish everything, and end the hand-over of requests that have their answer."""
        self.feed.publish(kept)
        await self.publish([*kept, *others])
        await self.outbox.forget([(answer.request_id, answer.received_at) for answer in kept])
