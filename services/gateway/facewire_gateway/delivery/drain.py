"""From the response queue into the store, and on to everybody who wants to know."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import structlog

from facewire.domain.errors import FacewireError, IntakeError, QueueError, RecognizeError, StoreError
from facewire.domain.failures import error_name, error_origin
from facewire.domain.messages import RecognizedFaces
from facewire.domain.ports import Result, ResultStore
from facewire.domain.queue_ports import Lease, Queue
from facewire.runtime.backoff import cut_off, growing_pauses, happens_within, uninterrupted
from facewire_gateway import metrics
from facewire_gateway.delivery.audience import Audience

_log = structlog.get_logger(__name__)

SettleLeases = Callable[[Sequence[Lease]], Coroutine[Any, Any, None]]

#: As many as SQS hands out at once.
BATCH = 10
#: The longest wait that SQS offers; each receive there is paid for.
WAIT_SECONDS = 20.0
#: A receive that has answers to give at the stop answers within this; one that still waits then is cut off.
_LAST_RECEIVE_SECONDS = 0.1
_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 5.0
#: What leases are extended by while the store is out of reach; longer than a pause and an attempt.
_LEASE_SECONDS = 30.0
#: When an answer comes again whose settling failed for a reason that nobody has thought of.
_RETRY_SECONDS = 15.0
#: How long a batch that is under way when the drain is cancelled may take to be settled.
_GRACE_SECONDS = 2.0


async def settle(answers: Sequence[RecognizedFaces], results: ResultStore, audience: Audience) -> int:
    """Keep `answers`, tell `audience` of those that were better than what was there, return their number.

    An id conflict is told to the camera and kept only where the request that it refuses is the pending one; else the
    request of that id has its own answer. StoreError where the store is out of reach; nobody has been told anything
    then, and what was kept all the same is told when it is settled again.
    """
    conflicts = [answer for answer in answers if is_conflict(answer) and not await _is_awaited(answer, results)]
    kept = await results.keep([answer for answer in answers if answer not in conflicts])
    metrics.ANSWERS.labels("conflict").inc(len(conflicts))
    metrics.ANSWERS.labels("kept").inc(len(kept))
    metrics.ANSWERS.labels("known_already").inc(len(answers) - len(conflicts) - len(kept))
    new = {(answer.request_id, answer.answered_at) for answer in kept}
    unkept = [answer for answer in answers if (answer.request_id, answer.answered_at) not in new]
    kept_before, others = await _told_all_the_same(unkept, results)
    await audience.tell([*kept, *kept_before], others)
    return len(kept)


async def _told_all_the_same(
    unkept: Sequence[RecognizedFaces], results: ResultStore
) -> tuple[list[RecognizedFaces], list[RecognizedFaces]]:
    """Return the answers that are kept already, and those to other messages than the known request.

    An answer comes again where a gateway was killed after keeping it: perhaps it has told nobody.
    """
    kept_before, others = [], []
    for answer in unkept:
        known = await results.get(answer.request_id)
        if (found := as_kept(answer, known)) is not None:
            kept_before.append(found)
        elif _is_about_another_message(answer, known):
            others.append(answer)
    return kept_before, others


def as_kept(answer: RecognizedFaces, known: Result | None) -> RecognizedFaces | None:
    """Return the answer as it is kept, without names that were deleted meanwhile; None where another one is kept."""
    if known is None or known.answer is None or known.answer.answered_at != answer.answered_at:
        return None
    return known.answer


def _is_about_another_message(answer: RecognizedFaces, known: Result | None) -> bool:
    """Return whether the sender of a message that is not the known request of its id waits for this answer.

    What refuses a message at intake, or answers a camera's frame whose id an upload has taken meanwhile.
    """
    hashes = {answer.content_sha256, "" if known is None else known.content_sha256}
    return _is_refusal(answer) or (answer.camera is not None and "" not in hashes and len(hashes) > 1)


async def _is_awaited(conflict: RecognizedFaces, results: ResultStore) -> bool:
    """Return whether the refused message is the pending request of that id: no other answer will come to it.

    An upload under an id whose first use only the detector knows of.
    """
    known = await results.get(conflict.request_id)
    return known is not None and known.status == "pending" and known.content_sha256 == conflict.content_sha256


async def drain_responses(responses: Queue, results: ResultStore, audience: Audience, stop: asyncio.Event) -> None:
    """Settle what comes over `responses`, and only then acknowledge it, until `stop` is set and the queue is empty."""

    async def settle_leases(leases: Sequence[Lease]) -> None:
        await _settle_leases(leases, responses, results, audience)

    await drain(responses, settle_leases, stop)


async def drain(queue: Queue, settle_leases: SettleLeases, stop: asyncio.Event) -> None:
    """Hand what comes over `queue` to `settle_leases`, a batch at a time, until `stop` is set and the queue is empty.

    While the store or the queue is out of reach it tries again, until the stop: the queue keeps what is left. A batch
    under way when it is cancelled is settled first, within two seconds. A batch that waits for the store stays lent,
    so that an outage does not use up the receives after which a message counts as poison.

    Whatever else fails is logged and counted, and ends no drain: the messages of the batch are settled one by one, and
    one that fails alone is given back; the queue buries it once it has been received too often.
    """
    pauses = growing_pauses(_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS)
    while True:
        try:
            last = stop.is_set()
            leases = await _receive(queue, stop)
            if leases:
                await _settle_in_time(queue, leases, settle_leases, stop)
            elif last:
                return
            pauses = growing_pauses(_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS)
        except Exception as error:  # noqa: BLE001 - logged and counted; the drain of the other answers goes on
            _note_fault(error)
            if await happens_within(stop, next(pauses)):
                return


async def _receive(queue: Queue, stop: asyncio.Event) -> Sequence[Lease]:
    if stop.is_set():
        return await queue.receive(BATCH, wait=0)
    receive = queue.receive(BATCH, wait=WAIT_SECONDS)
    return await cut_off(receive, stop, moment=_LAST_RECEIVE_SECONDS, grace=_GRACE_SECONDS) or ()


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
        except QueueError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever an answer may cause; logged and counted
            _note_fault(error)
            await _settle_apart(queue, leases, settle_leases, stop)
            return
        else:
            return
        await _keep_leases(queue, leases)
        await happens_within(stop, pause)


async def _settle_apart(
    queue: Queue, leases: Sequence[Lease], settle_leases: SettleLeases, stop: asyncio.Event
) -> None:
    """Settle each message of a batch alone, so that one cannot fail its neighbours; give back one that is alone."""
    if len(leases) == 1:
        await queue.give_back(leases, delay=_RETRY_SECONDS)
        return
    for lease in leases:
        await _settle_in_time(queue, [lease], settle_leases, stop)


async def _keep_leases(queue: Queue, leases: Sequence[Lease]) -> None:
    """Extend the leases; where the queue is out of reach too they may end, and the answers come again."""
    try:
        await queue.extend(leases, _LEASE_SECONDS)
    except QueueError as error:
        _note_fault(error)


def _note_fault(error: Exception) -> None:
    metrics.DRAIN_FAULTS.labels(type(error).__name__).inc()
    what = "answers could not be kept or acknowledged: tried again"
    if isinstance(error, FacewireError):
        _log.warning(what, error=error_name(error), detail=error.detail)
    else:
        _log.error(what, error=error_name(error), at=error_origin(error))


async def _settle_leases(leases: Sequence[Lease], responses: Queue, results: ResultStore, audience: Audience) -> None:
    readable = []
    answers = []
    unreadable = []
    for lease in leases:
        try:
            answers.append(RecognizedFaces.from_bytes(lease.body))
            readable.append(lease)
        except RecognizeError as error:
            unreadable.append((lease, error))
    await settle(answers, results, audience)
    await responses.acknowledge(readable)
    for lease, fault in unreadable:
        metrics.ANSWERS.labels("unreadable").inc()
        _log.warning("an answer cannot be read: buried", code=fault.code, detail=fault.detail, size=len(lease.body))
        await responses.bury(lease, str(fault))


def is_conflict(answer: RecognizedFaces) -> bool:
    """Return whether the answer refuses a message because its id stands for another request."""
    return answer.error is not None and answer.error.code == "id_conflict"


def _is_refusal(answer: RecognizedFaces) -> bool:
    return answer.error is not None and answer.error.stage == IntakeError.stage
