"""The end of a message's stay in a stage: what follows from it is sent, and only then is it acknowledged."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from facewire.domain.errors import FacewireError, QueueError
from facewire.domain.failures import error_name, error_origin
from facewire.domain.ports import AtomicQueue, Lease, PartialError, Queue, Sender
from facewire.runtime import metrics
from facewire.runtime.backoff import Backoff, shielded, wait_event
from facewire.work.handler import Message, Outgoing
from facewire.work.in_flight import InFlight

#: How long a send that is under way when the consumer is cancelled may take to end.
_GRACE_SECONDS = 1.0

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Settled:
    """A message that has been worked on, what to send for it, and why it is dead-lettered (None: acknowledged)."""

    message: Message[Any]
    outgoing: Sequence[Outgoing]
    dead_letter: str | None = None

    @property
    def lease(self) -> Lease:
        """The lease of the message."""
        return self.message.lease


#: Is told of a message and why a queue refuses what was to be sent for it.
Refused = Callable[[Settled, QueueError], Awaitable[None]]


class Delivery:
    """Sends for and acknowledges what is settled, as much as is there in one go.

    While a queue is out of reach it tries again without end, so nothing is worked on twice for that; what it could not
    send when it is cancelled stays in flight.
    """

    def __init__(self, queue: Queue, in_flight: InFlight, *, name: str, capacity: int, backoff: Backoff) -> None:
        self._queue = queue
        self._atomic = queue if isinstance(queue, AtomicQueue) else None
        self._in_flight = in_flight
        self._name = name
        self._backoff = backoff
        self._settled: asyncio.Queue[Settled] = asyncio.Queue(capacity)
        self._give_up = asyncio.Event()

    async def put(self, settled: Settled) -> None:
        """Add a message that is settled."""
        await self._settled.put(settled)

    async def done(self) -> None:
        """Wait until everything that was put in is delivered."""
        await self._settled.join()

    async def run(self, refused: Refused) -> None:
        """Deliver until cancelled; a delivery under way comes to its end first.

        A message for which a queue refuses what is to be sent goes to `refused`, which puts in something else for it,
        once: refused as well, that is not replaced any more.
        """
        while True:
            batch = [await self._settled.get()]
            while not self._settled.empty():
                batch.append(self._settled.get_nowait())
            await shielded(self._deliver(batch, refused), cancelled=self._give_up, grace=_GRACE_SECONDS)
            for _ in batch:
                self._settled.task_done()

    async def _deliver(self, batch: Sequence[Settled], refused: Refused) -> None:
        refusals = await self._hand_on(batch)
        if refusals is None:
            return
        for settled in batch:
            if settled.dead_letter is not None:
                await self._dead_letter(settled.lease, settled.dead_letter)
        await self._in_flight.remove([settled.lease for settled in batch if settled.lease.receipt not in refusals])
        for settled in batch:
            if error := refusals.get(settled.lease.receipt):
                await refused(settled, error)

    async def _hand_on(self, batch: Sequence[Settled]) -> Mapping[str, QueueError] | None:
        """Send and then acknowledge, in one step where the queues can do that; None if told to give up.

        Return, by receipt, why messages are not acknowledged: a queue refused what was to be sent for them.
        """
        atomic = self._atomic
        finished = [settled.lease for settled in batch if settled.dead_letter is None]
        sends = _by_queue(batch)
        if atomic is not None and all(atomic.commits_with(queue) for queue, _ in sends):
            bodies = [(queue, [body for _, body in pairs]) for queue, pairs in sends]
            return {} if await self._persist("hand_on", lambda: atomic.hand_on(finished, bodies)) else None
        refused: dict[str, QueueError] = {}
        sent = await asyncio.gather(*(self._send(queue, pairs, refused) for queue, pairs in sends))
        if not all(sent):
            return None
        done = [lease for lease in finished if lease.receipt not in refused]
        if done:
            await self._persist("acknowledge", lambda: self._queue.acknowledge(done))
        return {lease.receipt: refused[lease.receipt] for lease in finished if lease.receipt in refused}

    async def _send(self, queue: Sender, sends: Sequence[tuple[Lease, bytes]], refused: dict[str, QueueError]) -> bool:
        """Send all bodies but those that are `refused`, once each; return False if told to give up before."""
        left = list(sends)

        async def attempt() -> None:
            nonlocal left
            try:
                await queue.send([body for _, body in left])
            except PartialError as error:
                refused.update((left[position][0].receipt, error) for position in error.refused)
                left = [left[position] for position in error.left]
                if left:
                    raise
                note_queue_error(self._name, "send", error)

        return await self._persist("send", attempt)

    async def _dead_letter(self, lease: Lease, reason: str) -> None:
        """Dead-letter the message; where that fails its lease ends, and its next receive does it."""
        try:
            await self._queue.dead_letter(lease, reason)
        except QueueError as error:
            note_queue_error(self._name, "dead_letter", error)

    async def _persist(self, call: str, attempt: Callable[[], Awaitable[None]]) -> bool:
        """Return True once the queue has answered, False if told to give up before."""
        for pause in self._backoff.pauses():
            try:
                await attempt()
            except QueueError as error:
                note_queue_error(self._name, call, error)
            else:
                return True
            if await wait_event(self._give_up, pause):
                break
        return False


def note_queue_error(stage: str, call: str, error: Exception) -> None:
    """Log and count a call that a queue could not answer."""
    metrics.QUEUE_ERRORS.labels(stage, call).inc()
    detail = error.detail if isinstance(error, FacewireError) else error_origin(error)
    _log.warning("the queue did not answer", stage=stage, call=call, error=error_name(error), detail=detail)


def _by_queue(batch: Sequence[Settled]) -> list[tuple[Sender, list[tuple[Lease, bytes]]]]:
    sends: dict[int, tuple[Sender, list[tuple[Lease, bytes]]]] = {}
    for settled in batch:
        for outgoing in settled.outgoing:
            _, pairs = sends.setdefault(id(outgoing.queue), (outgoing.queue, []))
            pairs.append((settled.lease, outgoing.body))
    return list(sends.values())
