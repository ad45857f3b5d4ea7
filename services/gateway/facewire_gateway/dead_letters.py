"""From the dead letters into the store: what crashed a worker again and again ends as `failed`, and leaves the disk."""

import asyncio
from collections.abc import Sequence

import structlog

from facewire.errors import QueueError, RecognizeError
from facewire.failures import answer_unread
from facewire.messages import RecognizedFaces
from facewire.queues import MAX_RECEIVES, Lease, Queue
from facewire.stores import ResultStore
from facewire_gateway import metrics
from facewire_gateway.audience import Audience
from facewire_gateway.drain import drain, settle

_log = structlog.get_logger(__name__)

_DETAIL = f"given up after {MAX_RECEIVES} attempts, none of which came to an end: send the frame again"


async def drain_dead_letters(dead: Queue, results: ResultStore, audience: Audience, stop: asyncio.Event) -> None:
    """Answer each request in `dead` with `failed`, unless it has a better answer, and delete the message.

    A message that is an answer itself, one that could not be kept in time, is kept as it stands. Messages of any stage
    are taken; one that names no request is deleted and logged. Runs until `stop` is set and the queue is empty.
    """

    async def settle_leases(leases: Sequence[Lease]) -> None:
        read = [await asyncio.to_thread(_answer_in, lease.body) for lease in leases]
        answers = [answer for answer in read if answer is not None]
        kept = await settle(answers, results, audience)
        metrics.DEAD_LETTERS.inc(len(leases))
        request_ids = [answer.request_id for answer in answers]
        _log.error("messages were given up", count=len(leases), answered=kept, request_ids=request_ids)
        await dead.acknowledge(leases)

    await drain(dead, settle_leases, stop)


def _answer_in(body: bytes) -> RecognizedFaces | None:
    try:
        return RecognizedFaces.from_bytes(body)
    except RecognizeError:
        return answer_unread(body, QueueError("dead_letter", _DETAIL), "cloud")
