"""From the dead letters into the store: what crashed a worker again and again ends as `failed`, and leaves the disk."""

import asyncio
from collections.abc import Sequence

import structlog

from facewire.domain.failures import answer_given_up
from facewire.domain.ports import ResultStore
from facewire.domain.queue_ports import Lease, Queue
from facewire_gateway import metrics
from facewire_gateway.delivery.audience import Audience
from facewire_gateway.delivery.drain import drain, settle

_log = structlog.get_logger(__name__)


async def drain_dead_letters(dead: Queue, results: ResultStore, audience: Audience, stop: asyncio.Event) -> None:
    """Answer each request in `dead` with `failed`, unless it has a better answer, and delete the message.

    A message that is an answer itself, one that could not be kept in time, is kept as it stands. Messages of any stage
    are taken; one that names no request is deleted and logged. Runs until `stop` is set and the queue is empty.
    """

    async def settle_leases(leases: Sequence[Lease]) -> None:
        read = [await asyncio.to_thread(answer_given_up, lease.body, "cloud") for lease in leases]
        answers = [answer for answer in read if answer is not None]
        kept = await settle(answers, results, audience)
        metrics.DEAD_LETTERS.inc(len(leases))
        request_ids = [answer.request_id for answer in answers]
        _log.error("messages were given up", count=len(leases), answered=kept, request_ids=request_ids)
        await dead.acknowledge(leases)

    await drain(dead, settle_leases, stop)
