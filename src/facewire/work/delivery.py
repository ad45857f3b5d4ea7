"""The end of a message's stay in a stage: what follows from it is sent, and only then is it acknowledged."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

import structlog

from facewire.domain.errors import QueueError
from facewire.domain.queue_ports import AtomicQueue, Lease, PartialError, Queue
from facewire.runtime import metrics
from facewire.runtime.backoff import growing_pauses, happens_within, uninterrupted
from facewire.work.in_flight import InHand

_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 5.0
#: How long a send that is under way when the worker is cancelled may take to end.
_GRACE_SECONDS = 1.0

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Outgoing:
    """An encoded message and the queue it goes to."""

    queue: Queue
    body: bytes


@dataclass(frozen=True, slots=True)
class Settled:
    """A message that has been worked on, what to send for it, and why it is buried (None: it is acknowledged)."""

    lease: Lease
    outgoing: Sequence[Outgoing]
    burial: str | None = None


#: Is told of a message and why a queue refuses what was to be sent for it.
Refuse = Callable[[Lease, QueueError], Awaitable[None]]


class Delivery:
    """Sends for and acknowledges what is settled, as much as is there in one go.

    While a queue is out of reach it tries again without end, so nothing is worked on twice for that; what it could not
    send when it is cancelled stays in hand. A message for which a queue refuses what is to be sent is handed to
    `refuse`, which puts in something else for it, with a burial: refused as well, that is not replaced any more.
    """

    def __init__(self, queue: Queue, in_hand: InHand, *, stage: str, capacity: int, refuse: Refuse) -> None:
        self._queue = queue
        self._atomic = queue if isinstance(queue, AtomicQueue) else None
        self._in_hand = in_hand
        self._stage = stage
        self._refuse = refuse
        self._settled: asyncio.Queue[Settled] = asyncio.Queue(capacity)
        self._give_up = asyncio.Event()

    async def put(self, settled: Settled) -> None:
        """Add a message that is settled."""
        await self._settled.put(settled)

    async def done(self) -> None:
        """Wait until everything that was put in is delivered."""
        await self._settled.join()

    async def run(self) -> None:
        """Deliver until cancelled; a delivery under way comes to its end first."""
        while True:
            batch = [await self._settled.get()]
            while not self._settled.empty():
                batch.append(self._settled.get_nowait())
            await uninterrupted(self._deliver(batch), cancelled=self._give_up, grace=_GRACE_SECONDS)
            for _ in batch:
                self._settled.task_done()

    async def _deliver(self, batch: Sequence[Settled]) -> None:
        refused = await self._hand_on(batch)
        if refused is None:
            return
        for settled in batch:
            if settled.burial is not None:
                await self._bury(settled.lease, settled.burial)
        await self._in_hand.release([settled.lease for settled in batch if settled.lease.receipt not in refused])
        for settled in batch:
            if error := refused.get(settled.lease.receipt):
                await self._refuse(settled.lease, error)

    async def _hand_on(self, batch: Sequence[Settled]) -> Mapping[str, QueueError] | None:
        """Send and then acknowledge, in one step where the queues can do that; None if told to give up.

        Return, by receipt, why messages are not acknowledged: a queue refused what was to be sent for them.
        """
        atomic = self._atomic
        finished = [settled.lease for settled in batch if settled.burial is None]
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

    async def _send(self, queue: Queue, sends: Sequence[tuple[Lease, bytes]], refused: dict[str, QueueError]) -> bool:
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
                note_queue_error(self._stage, "send", error)

        return await self._persist("send", attempt)

    async def _bury(self, lease: Lease, reason: str) -> None:
        """Bury the message; where that fails its lease ends, and whoever receives it next buries it."""
        try:
            await self._queue.bury(lease, reason)
        except QueueError as error:
            note_queue_error(self._stage, "bury", error)

    async def _persist(self, call: str, attempt: Callable[[], Awaitable[None]]) -> bool:
        """Return True once the queue has answered, False if told to give up before."""
        for pause in growing_pauses(_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS):
            try:
                await attempt()
            except QueueError as error:
                note_queue_error(self._stage, call, error)
            else:
                return True
            if await happens_within(self._give_up, pause):
                break
        return False


def note_queue_error(stage: str, call: str, error: QueueError) -> None:
    """Log and count a call that a queue could not answer."""
    metrics.QUEUE_ERRORS.labels(stage, call).inc()
    _log.warning("the queue did not answer", stage=stage, call=call, error=error.code, detail=error.detail)


def _by_queue(batch: Sequence[Settled]) -> list[tuple[Queue, list[tuple[Lease, bytes]]]]:
    sends: dict[int, tuple[Queue, list[tuple[Lease, bytes]]]] = {}
    for settled in batch:
        for outgoing in settled.outgoing:
            _, pairs = sends.setdefault(id(outgoing.queue), (outgoing.queue, []))
            pairs.append((settled.lease, outgoing.body))
    return list(sends.values())
