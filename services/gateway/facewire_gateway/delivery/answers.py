"""The tasks that bring answers out: into the store, to listeners and to cameras."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

import structlog

from facewire.domain.ports import Queue, ResultStore
from facewire.runtime.settings import GatewaySettings
from facewire_gateway.delivery.dead_letters import drain_dead_letters
from facewire_gateway.delivery.drain import drain_responses
from facewire_gateway.delivery.expiry import run_expiry
from facewire_gateway.delivery.notifier import Notifier
from facewire_gateway.delivery.publish import ResultPublisher

_log = structlog.get_logger(__name__)


@asynccontextmanager
async def answers_going_out(  # noqa: PLR0913 - what the gateway stands on, all but the settings by keyword
    settings: GatewaySettings,
    *,
    results: ResultStore,
    notifier: Notifier,
    publisher: ResultPublisher,
    responses: Queue,
    dead_letters: Mapping[str, Queue],
) -> AsyncIterator[None]:
    """Drain `responses` and `dead_letters`, by name, and mark what is lost, while the block runs.

    After it, and so after everybody who still sends answers has ended, what is in the queues is settled and published
    for up to `drain_seconds`; the queues keep the rest.
    """
    worked = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        publishing = tasks.create_task(publisher.run(), name="publisher")
        works = {
            "drain": drain_responses(responses, results, notifier, worked),
            "expiry": run_expiry(settings, results, notifier, worked),
        } | {
            f"dead letters of {name}": drain_dead_letters(dead, results, notifier, worked)
            for name, dead in dead_letters.items()
        }
        draining = [tasks.create_task(work, name=name) for name, work in works.items()]
        yield
        worked.set()
        await _finish(draining, publisher, settings.drain_seconds)
        publishing.cancel()


async def _finish(draining: Sequence["asyncio.Task[None]"], publisher: ResultPublisher, seconds: float) -> None:
    """Let the tasks end and what they published leave; the store has it in any case."""
    deadline = asyncio.get_running_loop().time() + seconds
    _, late = await asyncio.wait(draining, timeout=seconds)
    for task in late:
        task.cancel()
    if late:
        _log.warning("answers are left in the queues", tasks=[task.get_name() for task in late], drain_seconds=seconds)
    try:
        async with asyncio.timeout_at(deadline):
            await publisher.flush()
    except TimeoutError:
        _log.warning("some answers were not published in time", drain_seconds=seconds)
