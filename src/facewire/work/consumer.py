"""The one loop of everything that reads a queue: lease messages, work on them, send what follows, then acknowledge.

Messages are leased ahead, so that the CPU never waits for a commit. What a handler does is in `handler.py`, what
becomes of a message that fails in `retry.py`, sending and acknowledging in `delivery.py`.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

import structlog

from facewire.domain.errors import FacewireError, QueueError, StoreError
from facewire.domain.failures import error_name, error_origin
from facewire.domain.ports import Queue
from facewire.runtime import metrics
from facewire.runtime.backoff import Backoff, run_until, wait_event
from facewire.work.delivery import Delivery, Settled, note_queue_error
from facewire.work.handler import DeadLetter, Done, Handler, Message, Outcome, RetryAfter, Verdict, request_id_of
from facewire.work.in_flight import InFlight
from facewire.work.retry import RetryStrategy, attempt, judge, judge_refused

M = TypeVar("M")

#: A receive that has messages to give answers within this; one that still waits then has leased nothing.
_LAST_RECEIVE_SECONDS = 0.1
#: How long a queue that is told to stop may take to answer.
_RETURN_SECONDS = 1.0

#: When messages come again that a stop took out of an outage: not while the queue is being emptied.
_HELD_SECONDS = 1.0
DEFAULT_RETRY = RetryStrategy()
DEFAULT_BACKOFF = Backoff()

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How much a consumer takes at once, and what it does where something fails.

    `concurrency` batches of up to `batch_size` messages are worked on at a time; a batch that is not full waits up to
    `batch_wait_seconds` for more. `prefetch` further messages are leased ahead. `lease_seconds` is what leases are
    extended by, `receive_seconds` how long a receive waits, `drain_seconds` how long a stop waits for what is in
    flight, with `until_empty` for the whole queue (None: the caller bounds it). A batch under way when the consumer is
    cancelled is given back, and worked on again.

    `retry` says when a message that failed is received again. With `hold` a batch that meets an outage of a store or
    queue stays in flight and is tried again by `backoff`: for consumers that can do nothing else meanwhile. Without
    `dead_letter` what would be dead-lettered is logged and deleted.
    """

    concurrency: int = 1
    batch_size: int = 1
    batch_wait_seconds: float = 0.0
    prefetch: int = 1
    lease_seconds: float = 30.0
    receive_seconds: float = 20.0
    drain_seconds: float | None = 5.0
    until_empty: bool = False
    hold: bool = False
    dead_letter: bool = True
    retry: RetryStrategy = DEFAULT_RETRY
    backoff: Backoff = DEFAULT_BACKOFF


async def consume(queue: Queue, handler: Handler[M], policy: Policy, stop: asyncio.Event) -> None:
    """Work on the messages of `queue` until `stop` is set, then finish what is in flight and return the rest."""
    await _Consumer(queue, handler, policy, stop).run()


class _Consumer(Generic[M]):
    def __init__(self, queue: Queue, handler: Handler[M], policy: Policy, stop: asyncio.Event) -> None:
        self._queue = queue
        self._handler = handler
        self._policy = policy
        self._stop = stop
        capacity = policy.concurrency * policy.batch_size + policy.prefetch
        self._in_flight = InFlight(capacity, metrics.IN_FLIGHT.labels(handler.name))
        self._delivery = Delivery(queue, self._in_flight, name=handler.name, capacity=capacity, backoff=policy.backoff)
        self._log = _log.bind(stage=handler.name)
        self._outage: str | None = None

    async def run(self) -> None:
        name, numbers = self._handler.name, range(self._policy.concurrency)
        try:
            async with asyncio.TaskGroup() as group:
                deliver = group.create_task(self._delivery.run(self._deliver_refused), name=f"{name}: deliver")
                extend = group.create_task(self._extend_leases(), name=f"{name}: extend leases")
                work = [group.create_task(self._work(), name=f"{name}: work {number}") for number in numbers]
                await self._fetch()
                await self._drain(work)
                for task in (*work, deliver, extend):
                    task.cancel()
        finally:
            await asyncio.shield(self._return_rest())

    async def _fetch(self) -> None:
        """Lease messages whenever there is room for them, until the stop."""
        pauses = self._policy.backoff.pauses()
        while not self._stop.is_set():
            try:
                # A receive that still waits shortly after a stop is cut off, in an orderly way.
                await run_until(self._receive(), self._stop, moment=_LAST_RECEIVE_SECONDS, grace=_RETURN_SECONDS)
            except Exception as error:  # noqa: BLE001 - logged and counted; the next receive may go well
                note_queue_error(self._handler.name, "receive", error)
                await wait_event(self._stop, next(pauses))
            else:
                pauses = self._policy.backoff.pauses()

    async def _receive(self) -> None:
        room = await self._in_flight.room(least=max(1, self._policy.prefetch // 2))
        if not self._stop.is_set():
            await self._in_flight.put(await self._queue.receive(room, wait=self._policy.receive_seconds))

    async def _receive_rest(self) -> None:
        try:
            while leases := await self._queue.receive(await self._in_flight.room(least=1), wait=0):
                await self._in_flight.put(leases)
        except QueueError as error:
            note_queue_error(self._handler.name, "receive", error)

    async def _work(self) -> None:
        policy = self._policy
        while leases := await self._in_flight.take(policy.batch_size, policy.batch_wait_seconds):
            messages = [Message(lease, self._handler.read) for lease in leases]
            for message, outcome in zip(messages, await self._attempt(messages), strict=True):
                await self._settle(message, outcome)

    async def _attempt(self, messages: Sequence[Message[M]]) -> Sequence[Outcome]:
        outcomes = await attempt(self._handler, messages, self._policy.retry)
        pauses = self._policy.backoff.pauses()
        while self._policy.hold and (held := [place for place, outcome in enumerate(outcomes) if _is_held(outcome)]):
            self._note_held(outcomes[held[0]], len(held))
            if await wait_event(self._stop, next(pauses)):
                again: Sequence[Outcome] = [RetryAfter(_HELD_SECONDS, count_attempt=False) for _ in held]
            else:
                again = await attempt(self._handler, [messages[place] for place in held], self._policy.retry)
            for place, outcome in zip(held, again, strict=True):
                outcomes[place] = outcome
        self._outage = None
        return outcomes

    async def _settle(self, message: Message[M], outcome: Outcome) -> None:
        verdict = await judge(self._handler, message, outcome, self._policy.retry)
        if isinstance(verdict, RetryAfter):
            await self._retry(message, verdict, outcome)
            return
        if isinstance(outcome, Exception):
            self._note_failure(message, outcome, verdict)
        else:
            metrics.MESSAGES.labels(self._handler.name, "done").inc()
        await self._deliver(message, verdict)

    async def _deliver(self, message: Message[M], verdict: Done | DeadLetter) -> None:
        reason = verdict.reason if isinstance(verdict, DeadLetter) and self._policy.dead_letter else None
        await self._delivery.put(Settled(message, verdict.outgoing, reason))

    async def _deliver_refused(self, settled: Settled, refusal: QueueError) -> None:
        """Put in what tells that a queue will never take what was to be sent for a message."""
        verdict = await judge_refused(self._handler, settled.message, refusal)
        self._note_failure(settled.message, refusal, verdict)
        await self._deliver(settled.message, verdict)

    async def _retry(self, message: Message[M], verdict: RetryAfter, outcome: Outcome) -> None:
        metrics.MESSAGES.labels(self._handler.name, "retried").inc()
        if isinstance(outcome, Exception):
            facts = {"receives": message.lease.receives, "error": error_name(outcome), "at": error_origin(outcome)}
            request_id = await asyncio.to_thread(request_id_of, message)
            self._log.warning("a message is retried", request_id=request_id, seconds=round(verdict.seconds, 1), **facts)
        try:
            await self._queue.release([message.lease], delay=verdict.seconds, count_attempt=verdict.count_attempt)
        except QueueError as error:
            note_queue_error(self._handler.name, "release", error)
        await self._in_flight.remove([message.lease])

    def _note_failure(self, message: Message[M], error: Exception, verdict: Verdict) -> None:
        reason = verdict.reason if isinstance(verdict, DeadLetter) else None
        given_up = "dead_lettered" if self._policy.dead_letter else "deleted"
        outcome = "failed" if reason is None else given_up
        metrics.MESSAGES.labels(self._handler.name, outcome).inc()
        detail = error.detail if isinstance(error, FacewireError) else None
        facts = {"error": error_name(error), "detail": detail, "size": len(message.lease.body)}
        log = self._log.error if outcome == "deleted" else self._log.warning
        log("a message failed", outcome=outcome, request_id=request_id_of(message), reason=reason, **facts)

    def _note_held(self, outcome: Outcome, messages: int) -> None:
        """Count what is held; log an outage once, not each attempt in it."""
        if not isinstance(outcome, FacewireError):
            return
        metrics.MESSAGES.labels(self._handler.name, "held").inc(messages)
        log = self._log.debug if self._outage == outcome.code else self._log.warning
        log("messages are held in an outage", messages=messages, error=error_name(outcome), detail=outcome.detail)
        self._outage = outcome.code

    async def _extend_leases(self) -> None:
        seconds = self._policy.lease_seconds
        while True:
            await asyncio.sleep(seconds / 3)
            try:
                if leases := self._in_flight.leases:
                    await self._queue.extend(leases, seconds)
            except QueueError as error:
                note_queue_error(self._handler.name, "extend", error)

    async def _drain(self, work: Sequence["asyncio.Task[None]"]) -> None:
        try:
            async with asyncio.timeout(self._policy.drain_seconds):
                if self._policy.until_empty:
                    await self._receive_rest()
                await self._in_flight.close()
                await asyncio.wait(work)
                await self._delivery.done()
        except TimeoutError:
            self._log.warning("stopped before everything in flight was done", messages=len(self._in_flight))

    async def _return_rest(self) -> None:
        if not (leases := self._in_flight.leases):
            return
        untried = self._in_flight.untried
        tried = [lease for lease in leases if lease not in untried]
        try:
            async with asyncio.timeout(_RETURN_SECONDS):
                # Leased ahead at five stops, a message would count as poison without a single attempt.
                for part, count_attempt in ((tried, not self._policy.hold), (untried, False)):
                    if part:
                        await self._queue.release(part, count_attempt=count_attempt)
        except (QueueError, TimeoutError) as error:
            self._log.warning("messages come back when their leases end", messages=len(leases), error=error_name(error))
        await self._in_flight.remove(leases)


def _is_held(outcome: Outcome) -> bool:
    return isinstance(outcome, QueueError | StoreError)


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
