"""What time does to requests: those without an answer at the deadline are lost, old answers leave."""

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta

import structlog

from facewire.domain.errors import StoreError
from facewire.domain.lifecycle import Overdue, RequestState
from facewire.domain.messages import now
from facewire.domain.ports import ResultStore
from facewire.domain.timing import SETTLE_SECONDS, SettledClock
from facewire.runtime.backoff import wait_event
from facewire.runtime.settings import GatewaySettings
from facewire_gateway import metrics
from facewire_gateway.delivery.drain import settle
from facewire_gateway.delivery.notifier import Notifier

_log = structlog.get_logger(__name__)

_BATCH = 100
_PAUSE_SECONDS = 5.0
_EXPIRE_EVERY_SECONDS = 3600.0


async def run_expiry(
    settings: GatewaySettings,
    results: ResultStore,
    notifier: Notifier,
    stop: asyncio.Event,
    *,
    clock: Callable[[], datetime] = now,
) -> None:
    """Every few seconds mark overdue requests `failed: lost`, every hour let old answers expire; until `stop` is set.

    A store that cannot answer is logged and asked again at the next turn. A jump ahead of `clock` counts once it has
    lasted ten minutes, and as long as an answer may take: then what was in flight at the jump has ended.
    """
    settled = SettledClock(max(SETTLE_SECONDS, settings.answer_deadline_seconds), clock=clock)
    loop = asyncio.get_running_loop()
    expire_at = loop.time()
    while not stop.is_set():
        try:
            await mark_lost(settings, results, notifier, clock=settled)
            if loop.time() >= expire_at:
                await _expire(settings, results, settled)
                expire_at = loop.time() + _EXPIRE_EVERY_SECONDS
        except StoreError as error:
            _log.warning("the store did not answer the expiry", code=error.code, detail=error.detail)
        await wait_event(stop, _PAUSE_SECONDS)


async def mark_lost(
    settings: GatewaySettings, results: ResultStore, notifier: Notifier, *, clock: Callable[[], datetime] = now
) -> None:
    """Answer every request that was received before the answer deadline and is still pending with `failed: lost`."""
    event = Overdue(clock(), timedelta(seconds=settings.answer_deadline_seconds))
    while overdue := await results.overdue(event.at - event.deadline, _BATCH):
        told = [RequestState(result).on(event).told for result in overdue]
        lost = await settle([answer for answer in told if answer is not None], results, notifier)
        metrics.LOST.inc(lost)
        _log.error(
            "requests are lost: no answer at the deadline",
            count=lost,
            request_ids=[result.request_id for result in overdue[:10]],
        )
        if lost < _BATCH:
            return


async def _expire(settings: GatewaySettings, results: ResultStore, clock: Callable[[], datetime]) -> None:
    before = clock() - timedelta(days=settings.results_days)
    count = await results.expire(before, forget_before=before - timedelta(days=settings.tombstone_days))
    if count:
        _log.info("results have expired", count=count)
