"""The loop of every stage: lease messages, work on them, send what follows from them, then acknowledge them.

What cannot succeed is answered `failed` at once. Anything else that goes wrong is tried again after growing pauses, and
on the fifth receive answered `failed` and buried; receives for want of a store or queue do not count. Messages are
leased ahead, so that the CPU never waits for a commit.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

import structlog

from facewire.domain.errors import (
    DecodeError,
    DetectError,
    FacewireError,
    GalleryError,
    IntakeError,
    QueueError,
    RecognizeError,
    is_outage,
)
from facewire.domain.failures import answer_unread, error_name, error_origin, last_error
from facewire.domain.messages import MAX_MESSAGE_BYTES, DetectedFaces, Frame, RecognizedFaces, Source, failed
from facewire.domain.queue_ports import MAX_RECEIVES, Lease, Queue
from facewire.runtime import metrics
from facewire.runtime.backoff import cut_off, growing_pauses, happens_within, jittered
from facewire.work.delivery import Delivery, Outgoing, Settled, note_queue_error
from facewire.work.in_flight import InHand

#: Errors that every further attempt would meet again: the message itself is at fault.
FINAL_ERRORS = (IntakeError, DecodeError, DetectError, RecognizeError, GalleryError)
#: Seconds until a message is received again after its first, second, third and fourth failed attempt.
RETRY_SECONDS = (1.0, 4.0, 16.0, 60.0)
_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 5.0
#: A receive that has messages to give answers within this; one that still waits then has leased nothing.
_LAST_RECEIVE_SECONDS = 0.1
#: How long a queue that is told to stop may take to answer.
_RETURN_SECONDS = 1.0

#: What a message led to: the messages to send before it is acknowledged, or why it failed.
Outcome = Sequence[Outgoing] | Exception

_log = structlog.get_logger()


class Stage(Protocol):
    """The work of one service on its messages."""

    @property
    def error(self) -> type[FacewireError]:
        """The stage's error; its `stage` is what logs and metrics call the stage."""
        ...

    @property
    def source(self) -> Source:
        """Where the stage runs."""
        ...

    def read(self, body: bytes) -> Frame | DetectedFaces:
        """Return the message in `body`; a FacewireError where there is none."""
        ...

    async def process(self, bodies: Sequence[bytes]) -> Sequence[Outcome]:
        """Return the outcome of each message. If it raises, each message of the batch is tried alone."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much a worker takes at once.

    `concurrency` batches of up to `batch_size` messages are worked on at a time; a batch that is not full waits up to
    `batch_wait_seconds` for more. `prefetch` further messages are leased ahead. `lease_seconds` is what leases are
    extended by, `receive_seconds` how long a receive waits, `drain_seconds` how long a stop waits for what is in hand.
    """

    concurrency: int = 1
    batch_size: int = 1
    batch_wait_seconds: float = 0.0
    prefetch: int = 1
    lease_seconds: float = 30.0
    receive_seconds: float = 20.0
    drain_seconds: float = 5.0


class Worker:
    """Runs one stage on the messages of one queue; its `failed` answers go to `responses`."""

    def __init__(self, stage: Stage, queue: Queue, *, responses: Queue, limits: Limits) -> None:
        self._stage = stage
        self._name = stage.error.stage
        self._queue = queue
        self._responses = responses
        self._limits = limits
        capacity = limits.concurrency * limits.batch_size + limits.prefetch
        self._in_hand = InHand(capacity, metrics.IN_HAND.labels(self._name))
        self._delivery = Delivery(
            queue, self._in_hand, stage=self._name, capacity=capacity, refuse=self._answer_refused
        )
        self._log = _log.bind(stage=self._name)

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set, then finish what is in hand within `drain_seconds` and return the rest."""
        try:
            async with asyncio.TaskGroup() as group:
                deliver = group.create_task(self._delivery.run(), name=f"{self._name}: deliver")
                extend = group.create_task(self._extend_leases(), name=f"{self._name}: extend leases")
                work = [
                    group.create_task(self._work(), name=f"{self._name}: work {number}")
                    for number in range(self._limits.concurrency)
                ]
                await self._fetch(stop)
                await self._drain(work)
                for task in (*work, deliver, extend):
                    task.cancel()
        finally:
            await asyncio.shield(self._return_rest())

    async def _fetch(self, stop: asyncio.Event) -> None:
        """Lease messages whenever there is room for them, until `stop` is set."""
        pauses = growing_pauses(_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS)
        while not stop.is_set():
            try:
                await self._receive(stop)
            except QueueError as error:
                note_queue_error(self._name, "receive", error)
                await happens_within(stop, next(pauses))
            else:
                pauses = growing_pauses(_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS)

    async def _receive(self, stop: asyncio.Event) -> None:
        """Receive once; a receive that still waits shortly after a stop is cut off, in an orderly way."""
        await cut_off(self._take_in(stop), stop, moment=_LAST_RECEIVE_SECONDS, grace=_RETURN_SECONDS)

    async def _take_in(self, stop: asyncio.Event) -> None:
        room = await self._in_hand.room(least=max(1, self._limits.prefetch // 2))
        if stop.is_set():
            return
        await self._in_hand.put(await self._queue.receive(room, wait=self._limits.receive_seconds))

    async def _work(self) -> None:
        limits = self._limits
        while leases := await self._in_hand.take(limits.batch_size, limits.batch_wait_seconds):
            for lease, outcome in zip(leases, await self._attempt(leases), strict=True):
                await self._settle(lease, outcome)

    async def _attempt(self, leases: Sequence[Lease]) -> Sequence[Outcome]:
        """Process the messages together; if that fails, each alone, so that one cannot fail its neighbours."""
        if len(leases) == 1 and leases[0].receives > MAX_RECEIVES:
            return [self._stage.error("gave_up", f"none of {MAX_RECEIVES} attempts came to an end")]
        try:
            if all(lease.receives <= MAX_RECEIVES for lease in leases):
                return await self._stage.process([lease.body for lease in leases])
        except Exception as error:  # noqa: BLE001 - whatever a message's content may cause; logged and counted in _settle
            if len(leases) == 1:
                return [error]
            self._log.warning(
                "a batch failed, trying each message alone", messages=len(leases), error=error_name(error)
            )
        return [outcome for lease in leases for outcome in await self._attempt([lease])]

    async def _settle(self, lease: Lease, outcome: Outcome) -> None:
        if not isinstance(outcome, Exception):
            await self._succeed(lease, outcome)
        elif is_outage(outcome):
            await self._try_again(lease, outcome, unused=True)
        elif lease.receives >= MAX_RECEIVES:
            error = last_error(outcome, self._stage.error)
            await self._fail(lease, error, burial=f"{lease.receives} receives, then {error_name(outcome)}")
        elif isinstance(outcome, FINAL_ERRORS):
            await self._fail(lease, outcome, burial=None)
        else:
            await self._try_again(lease, outcome)

    async def _succeed(self, lease: Lease, outgoing: Sequence[Outgoing]) -> None:
        largest = max((len(message.body) for message in outgoing), default=0)
        if largest > MAX_MESSAGE_BYTES:
            detail = f"the next message would have {largest:,} bytes, a queue takes {MAX_MESSAGE_BYTES:,}"
            await self._fail(lease, self._stage.error("message_too_large", detail), burial=None)
            return
        metrics.MESSAGES.labels(self._name, "done").inc()
        await self._delivery.put(Settled(lease, outgoing))

    async def _fail(self, lease: Lease, error: FacewireError, *, burial: str | None) -> None:
        """Answer `failed`; a message that cannot be answered, as it names no request or is swollen, is buried."""
        answer = await asyncio.to_thread(self._failed_answer, lease.body, error)
        body = answer.to_bytes() if answer else b""
        outgoing = [Outgoing(self._responses, body)] if 0 < len(body) <= MAX_MESSAGE_BYTES else []
        if not outgoing:
            burial = burial or f"it cannot be answered: {error_name(error)}"
        metrics.MESSAGES.labels(self._name, "failed" if burial is None else "buried").inc()
        facts = {"request_id": answer.request_id if answer else None, "error": error.code, "detail": error.detail}
        self._log.warning("a message failed", buried=burial, **facts)
        await self._delivery.put(Settled(lease, outgoing, burial))

    async def _answer_refused(self, lease: Lease, refusal: QueueError) -> None:
        """Answer a message whose successor a queue will never take."""
        error = self._stage.error("message_refused", f"a queue does not take the next message: {refusal.detail}")
        await self._fail(lease, error, burial=f"what follows from it was refused: {refusal.detail}")

    async def _try_again(self, lease: Lease, error: Exception, *, unused: bool = False) -> None:
        delay = jittered(RETRY_SECONDS[min(lease.receives, len(RETRY_SECONDS)) - 1])
        metrics.MESSAGES.labels(self._name, "retried").inc()
        request_id = await asyncio.to_thread(_request_id, self._stage, lease.body)
        facts = {"receives": lease.receives, "error": error_name(error), "at": error_origin(error)}
        self._log.warning("a message is tried again", request_id=request_id, seconds=round(delay, 1), **facts)
        try:
            await self._queue.give_back([lease], delay=delay, unused=unused)
        except QueueError as queue_error:
            note_queue_error(self._name, "give_back", queue_error)
        await self._in_hand.release([lease])

    def _failed_answer(self, body: bytes, error: FacewireError) -> RecognizedFaces | None:
        try:
            return failed(self._stage.read(body), error, source=self._stage.source)
        except FacewireError:
            return answer_unread(body, error, self._stage.source)

    async def _extend_leases(self) -> None:
        seconds = self._limits.lease_seconds
        while True:
            await asyncio.sleep(seconds / 3)
            try:
                if leases := self._in_hand.leases:
                    await self._queue.extend(leases, seconds)
            except QueueError as error:
                note_queue_error(self._name, "extend", error)

    async def _drain(self, work: Sequence["asyncio.Task[None]"]) -> None:
        await self._in_hand.close()
        try:
            async with asyncio.timeout(self._limits.drain_seconds):
                await asyncio.wait(work)
                await self._delivery.done()
        except TimeoutError:
            self._log.warning("stopped before everything in hand was done", messages=len(self._in_hand))

    async def _return_rest(self) -> None:
        if not (leases := self._in_hand.leases):
            return
        untried = self._in_hand.untried
        tried = [lease for lease in leases if lease not in untried]
        try:
            async with asyncio.timeout(_RETURN_SECONDS):
                # Leased ahead at five stops, a message would count as poison without a single attempt.
                for part, unused in ((tried, False), (untried, True)):
                    if part:
                        await self._queue.give_back(part, unused=unused)
        except (QueueError, TimeoutError) as error:
            self._log.warning("messages come back when their leases end", messages=len(leases), error=error_name(error))
        await self._in_hand.release(leases)


@asynccontextmanager
async def worker_threads(count: int, name: str, *, shared: Executor | None = None) -> AsyncIterator[Executor]:
    """Yield `count` threads for CPU work, or those that are `shared`; the end does not wait for work given up."""
    if shared is not None:
        yield shared
        return
    threads = ThreadPoolExecutor(count, thread_name_prefix=name)
    try:
        yield threads
    finally:
        threads.shutdown(wait=False, cancel_futures=True)


def _request_id(stage: Stage, body: bytes) -> str | None:
    try:
        return stage.read(body).request_id
    except FacewireError:
        return None
