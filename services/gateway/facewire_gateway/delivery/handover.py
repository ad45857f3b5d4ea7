"""From the outbox to the detectors over MQTT, and again later until the answer is there or its deadline has passed."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

import structlog

from facewire.domain.errors import IntakeError, QueueError, StoreError
from facewire.domain.messages import Frame
from facewire.domain.ports import ResultStore
from facewire.domain.queue_ports import Lease, Queue
from facewire.domain.timing import SettledClock
from facewire.runtime.backoff import growing_pauses, happens_within
from facewire_gateway import metrics
from facewire_gateway.delivery.backlog import Backlog, Detectors
from facewire_gateway.delivery.publish import Publisher

_log = structlog.get_logger(__name__)

#: Frames on their way to the broker at a time; each is in memory twice, as body and packet, once more while it is read.
IN_FLIGHT = 4
#: A PUBACK is waited for 10 s; a frame of a gateway that was killed is due again after this.
LEASE_SECONDS = 15.0
#: A stop is noticed after at most this long without a frame.
_WAIT_SECONDS = 1.0
#: How long frames on their way may take to arrive after the stop.
_GRACE_SECONDS = 2.0
_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 5.0
#: A frame that the broker or the store stood against is due again after this.
_RETRY_SECONDS = 1.0
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
class HandOver:
    """Hands over what is due in `outbox`. Several gateways may do so; each frame is lent to one of them at a time.

    Nothing is handed over while there are no `detectors`: in the broker it would take the room of cameras' frames. A
    frame that has been handed over waits while there is a `backlog`: most likely it is part of it.
    """

    outbox: Queue
    results: ResultStore
    connection: Publisher
    backlog: Backlog
    timing: Timing
    detectors: Detectors
    clock: Callable[[], datetime] = field(default_factory=SettledClock)

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set; what is on its way then has two seconds to arrive, or is due again later."""
        async with asyncio.TaskGroup() as tasks:
            names = [f"hand-over {number}" for number in range(IN_FLIGHT)]
            workers = [tasks.create_task(self._work(stop), name=name) for name in names]
            await stop.wait()
            _, late = await asyncio.wait(workers, timeout=_WAIT_SECONDS + _GRACE_SECONDS)
            for worker in late:
                worker.cancel()

    async def _work(self, stop: asyncio.Event) -> None:
        pauses = growing_pauses(_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS)
        while not stop.is_set():
            try:
                if await self.detectors.there_within(_WAIT_SECONDS):
                    for lease in await self.outbox.receive(1, wait=_WAIT_SECONDS):
                        await self._settle(lease)
                pauses = growing_pauses(_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS)
            except (QueueError, StoreError) as error:
                metrics.HANDED_OVER.labels("error").inc()
                _log.warning("a frame could not be handed over: tried again", error=error.code, detail=error.detail)
                await happens_within(stop, next(pauses))

    async def _settle(self, lease: Lease) -> None:
        try:
            frame = await _read(lease.body)
        except IntakeError as error:
            await self._bury(lease, error)
            return
        try:
            outcome, due_in = await self._attempt(frame, lease)
        except (QueueError, StoreError):
            await self.outbox.give_back([lease], delay=_RETRY_SECONDS, unused=True)
            raise
        if due_in is None:
            await self.outbox.acknowledge([lease])
        else:
            # The first hand-over counts as a receive, which tells those after it: they do not, or the fifth were fatal.
            await self.outbox.give_back([lease], delay=due_in, unused=lease.receives > 1)
        metrics.HANDED_OVER.labels(outcome).inc()
        _log.debug("a frame of the outbox was due", request_id=frame.request_id, outcome=outcome)

    async def _attempt(self, frame: Frame, lease: Lease) -> tuple[str, float | None]:
        """Hand the frame over if it is time to; return the outcome and when it is due again, None for never."""
        useless = await self._useless(frame)
        if useless is not None:
            return useless, None
        if lease.receives > 1 and await self.backlog.waits():
            return "postponed", self.timing.handover_seconds
        topic = f"{'uploads' if frame.enroll_as is None else 'enroll'}/{frame.request_id}"
        await self.connection.publish(topic, lease.body)
        return "published", next_handover(self._age(frame), self.timing)

    async def _useless(self, frame: Frame) -> str | None:
        """Return why the frame need not be handed over any more, None where it is to be.

        Its request may not be noted yet: the outbox commits the frame first. What the store knows is then of an
        earlier request under that id, or nothing at all.
        """
        known = await self.results.get(frame.request_id)
        if known is None or known.received_at < frame.received_at:
            await self.results.expect(frame)
            known = await self.results.get(frame.request_id)
        if known is not None and known.status != "pending":
            return "answered"
        if known is not None and known.content_sha256 not in {frame.content_sha256, ""}:
            return "superseded"
        return "too_late" if self._age(frame) >= self.timing.answer_deadline_seconds else None

    async def _bury(self, lease: Lease, fault: IntakeError) -> None:
        metrics.HANDED_OVER.labels("unreadable").inc()
        detail = {"code": fault.code, "detail": fault.detail, "size": len(lease.body)}
        _log.error("a frame of the outbox cannot be read: buried", **detail)
        await self.outbox.bury(lease, str(fault))

    def _age(self, frame: Frame) -> float:
        return max(0.0, (self.clock() - frame.received_at).total_seconds())


async def _read(body: bytes) -> Frame:
    """Return the frame in `body` without its image, which nothing here needs a copy of."""
    if len(body) <= _INLINE_BYTES:
        return _fields_of(body)
    return await asyncio.to_thread(_fields_of, body)


def _fields_of(body: bytes) -> Frame:
    return Frame.from_bytes(body).model_copy(update={"content": b""})
