"""From the outbox to the detectors over MQTT, and again later until the answer is there or its deadline has passed."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import ClassVar, Protocol

import structlog

from facewire.domain.errors import FacewireError, QueueError
from facewire.domain.lifecycle import Due, RequestState
from facewire.domain.messages import Frame
from facewire.domain.ports import Lease, Queue, ResultStore
from facewire.domain.timing import SettledClock
from facewire.work.consumer import Policy, consume
from facewire.work.handler import Done, Handler, Message, Outcome, Outgoing, RetryAfter
from facewire_gateway import metrics
from facewire_gateway.delivery.backlog import Backlog, Detectors
from facewire_gateway.delivery.publish import Publisher

_log = structlog.get_logger(__name__)

#: Frames on their way to the broker at a time; each is in memory twice, as body and packet, once more while it is read.
IN_FLIGHT = 4
#: A PUBACK is waited for 10 s; a frame of a gateway that was killed is due again after this.
LEASE_SECONDS = 15.0
#: A frame that the broker, the store or the absence of detectors stands against is held.
HAND_OVER = Policy(concurrency=IN_FLIGHT, prefetch=0, lease_seconds=LEASE_SECONDS, drain_seconds=2.0, hold=True)
#: Larger bodies are read in a thread: 256 KiB take about a millisecond.
_INLINE_BYTES = 256 * 1024


class Timing(Protocol):
    """When a frame is handed over again, in seconds: settings."""

    @property
    def handover_seconds(self) -> float:
        """From the first time to the second."""

    @property
    def answer_deadline_seconds(self) -> float:
        """From receipt to the moment when the request is lost."""


def next_handover(age: float, timing: Timing) -> float:
    """Return the seconds until a frame is handed over again, `age` seconds after it was received.

    Doubling from hand-over to hand-over, and told by the age alone, so no restart begins anew. A frame from the future,
    as the clock was set back, has no age.
    """
    age = max(0.0, age)
    return min(timing.handover_seconds + age, max(0.0, timing.answer_deadline_seconds - age))


@dataclass(frozen=True, slots=True)
class HandOver(Handler[Frame]):
    """Hands over what is due in `outbox`. Several gateways may do so; each frame is lent to one of them at a time.

    Nothing is handed over while there are no `detectors`: in the broker it would take the room of cameras' frames. A
    frame that has been handed over waits while there is a `backlog`: most likely it is part of it.
    """

    name: ClassVar[str] = "hand-over"
    error: ClassVar[type[FacewireError]] = QueueError

    outbox: Queue
    results: ResultStore
    connection: Publisher
    backlog: Backlog
    timing: Timing
    detectors: Detectors
    clock: Callable[[], datetime] = field(default_factory=SettledClock)
    policy: Policy = HAND_OVER

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set; what is on its way then has two seconds to arrive, or is due again later."""
        await consume(self.outbox, self, self.policy, stop)

    def read(self, body: bytes) -> Frame:
        """Return the frame in `body` without its image, which nothing here needs a copy of."""
        return Frame.from_bytes(body).model_copy(update={"content": b""})

    async def handle(self, messages: Sequence[Message[Frame]]) -> Sequence[Outcome]:
        """Hand over each frame if it is time to, and say when it is due again."""
        return [await self._hand_over(message) for message in messages]

    def failure(self, message: Message[Frame], error: FacewireError) -> Sequence[Outgoing]:  # noqa: ARG002
        """Return nothing: what cannot be read names no request, and any other is answered at its deadline."""
        return ()

    async def _hand_over(self, message: Message[Frame]) -> Outcome:
        large = len(message.lease.body) > _INLINE_BYTES
        frame = await asyncio.to_thread(_content, message) if large else message.content
        outcome, due_in = await self._attempt(frame, message.lease)
        metrics.HANDED_OVER.labels(outcome).inc()
        _log.debug("a frame of the outbox was due", request_id=frame.request_id, outcome=outcome)
        if due_in is None:
            return Done()
        # The first hand-over counts as a receive, which tells those after it: they do not, or the fifth were fatal.
        return RetryAfter(due_in, count_attempt=message.lease.receives == 1)

    async def _attempt(self, frame: Frame, lease: Lease) -> tuple[str, float | None]:
        """Hand the frame over if it is time to; return the outcome and when it is due again, None for never."""
        use = await self._use_of(frame)
        if use != "awaited":
            return use, None
        if lease.receives > 1 and await self.backlog.waits():
            return "postponed", self.timing.handover_seconds
        if not self.detectors.there():
            raise QueueError("no_detector", "no detector is there: uploads wait in the outbox")
        topic = f"{'uploads' if frame.enroll_as is None else 'enroll'}/{frame.request_id}"
        await self.connection.publish(topic, lease.body)
        return "published", next_handover(self._age(frame), self.timing)

    async def _use_of(self, frame: Frame) -> str:
        """Return `awaited` where the frame is to be handed over, else why it need not be any more.

        Its request may not be noted yet: the outbox commits the frame first. What the store knows is then of an
        earlier request under that id, or nothing at all.
        """
        state = RequestState(await self.results.get(frame.request_id))
        if not state.has_noted(frame):
            await self.results.expect(frame)
            state = RequestState(await self.results.get(frame.request_id))
        deadline = timedelta(seconds=self.timing.answer_deadline_seconds)
        return state.on(Due(frame, self.clock(), deadline)).outcome

    def _age(self, frame: Frame) -> float:
        return max(0.0, (self.clock() - frame.received_at).total_seconds())


def _content(message: Message[Frame]) -> Frame:
    return message.content
