"""From the response queue into the store, and on to everybody who wants to know."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

import structlog

from facewire.errors import IntakeError, QueueError, RecognizeError, StoreError
from facewire.messages import RecognizedFaces
from facewire.queues import Lease, Queue
from facewire.stores import ResultStore
from facewire.waiting import growing_pauses, happens_within, uninterrupted
from facewire_gateway import metrics
from facewire_gateway.feed import Feed

_log = structlog.get_logger(__name__)

Publish = Callable[[Sequence[RecognizedFaces]], Awaitable[None]]
SettleLeases = Callable[[Sequence[Lease]], Coroutine[Any, Any, None]]

#: As many as SQS hands out at once.
BATCH = 10
#: A stop is noticed after at most this long without an answer.
WAIT_SECONDS = 1.0
_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 5.0
#: What leases are extended by while the store is out of reach; longer than a pause and an attempt.
_LEASE_SECONDS = 30.0
#: How long a batch that is under way when the drain is cancelled may take to be settled.
_GRACE_SECONDS = 2.0


async def settle(answers: Sequence[RecognizedFaces], results: ResultStore, feed: Feed, publish: Publish) -> int:
    """Keep `answers`, tell those that were better than what was there to listeners and cameras, return their number.

    An id conflict is told to the camera and not kept: the request of that id has its own answer. Any other refusal at
    intake is told even where a better answer stays: it is about another message. StoreError where nothing could be
    kept; nobody has been told anything then.
    """
    conflicts = [answer for answer in answers if _is_conflict(answer)]
    kept = await results.keep([answer for answer in answers if not _is_conflict(answer)])
    metrics.ANSWERS.labels("conflict").inc(len(conflicts))
    metrics.ANSWERS.labels("kept").inc(len(kept))
    metrics.ANSWERS.labels("known_already").inc(len(answers) - len(conflicts) - len(kept))
    feed.publish(kept)
    kept_ids = {answer.request_id for answer in kept}
    refused = [answer for answer in answers if _is_refusal(answer) and answer.request_id not in kept_ids]
    await publish([answer for answer in (*kept, *refused) if answer.camera is not None])
    return len(kept)


async def drain_responses(
    responses: Queue, results: ResultStore, feed: Feed, publish: Publish, stop: asyncio.Event
) -> None:
    """Settle what comes over `responses`, and only then acknowledge it, until `stop` is set and the queue is empty."""

    async def settle_leases(leases: Sequence[Lease]) -> None:
        await _settle_leases(leases, responses, results, feed, publish)

    await drain(responses, settle_leases, stop)


async def drain(queue: Queue, settle_leases: SettleLeases, stop: asyncio.Event) -> None:
    """Hand what comes over `queue` to `settle_leases`, a batch at a time, until `stop` is set and the queue is empty.

    While the store or the queue is out of reach it tries again, until the stop: the queue keeps what is left. A batch
    under way when it is cancelled is settled first, within two seconds. A batch that waits for the store stays lent,
    so that an outage does not use up the receives after which a message counts as poison.
    """
    pauses = growing_pauses(_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS)
    while True:
        try:
            leases = await queue.receive(BATCH, wait=0 if stop.is_set() else WAIT_SECONDS)
            if leases:
                await _settle_in_time(queue, leases, settle_leases, stop)
            elif stop.is_set():
                return
            pauses = growing_pauses(_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS)
        except (QueueError, StoreError) as error:
            _note_fault(error)
            if await happens_within(stop, next(pauses)):
                return


async def _settle_in_time(
    queue: Queue, leases: Sequence[Lease], settle_leases: SettleLeases, stop: asyncio.Event
) -> None:
    """Settle the leases, keeping them for as long as the store is out of reach; at the stop give them back, unused.

    StoreError where the stop came first.
    """
    for pause in growing_pauses(_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS):
        try:
            await uninterrupted(settle_leases(leases), cancelled=asyncio.Event(), grace=_GRACE_SECONDS)
        except StoreError as error:
            if stop.is_set():
                await queue.give_back(leases, unused=True)
                raise
            _note_fault(error)
        else:
            return
        await _keep_leases(queue, leases)
        await happens_within(stop, pause)


async def _keep_leases(queue: Queue, leases: Sequence[Lease]) -> None:
    """Extend the leases; where the queue is out of reach too they may end, and the answers come again."""
    try:
        await queue.extend(leases, _LEASE_SECONDS)
    except QueueError as error:
        _note_fault(error)


def _note_fault(error: QueueError | StoreError) -> None:
    metrics.DRAIN_FAULTS.labels(type(error).__name__).inc()
    _log.warning(
        "answers could not be kept or acknowledged: tried again",
        stage=error.stage,
        code=error.code,
        detail=error.detail,
    )


async def _settle_leases(
    leases: Sequence[Lease], responses: Queue, results: ResultStore, feed: Feed, publish: Publish
) -> None:
    readable = []
    answers = []
    unreadable = []
    for lease in leases:
        try:
            answers.append(RecognizedFaces.from_bytes(lease.body))
            readable.append(lease)
        except RecognizeError as error:
            unreadable.append((lease, error))
    await settle(answers, results, feed, publish)
    await responses.acknowledge(readable)
    for lease, fault in unreadable:
        metrics.ANSWERS.labels("unreadable").inc()
        _log.warning("an answer cannot be read: buried", code=fault.code, detail=fault.detail, size=len(lease.body))
        await responses.bury(lease, str(fault))


def _is_conflict(answer: RecognizedFaces) -> bool:
    return answer.error is not None and answer.error.code == "id_conflict"


def _is_refusal(answer: RecognizedFaces) -> bool:
    return answer.error is not None and answer.error.stage == IntakeError.stage
