"""Sessions that nobody serves any more: what the broker holds for them is taken by whoever is there."""

import asyncio
from pathlib import Path

import structlog

from facewire.adapters.mqtt.connection import MqttConnection
from facewire.runtime.backoff import wait_event
from facewire.runtime.settings import MqttSettings
from facewire_detector.intake import Intake, consume_frames
from facewire_detector.slots import Slot, abandoned_slot
from facewire_detector.topics import SHARED_TOPICS

LOOK_SECONDS = 2.0
#: A session holds what was dealt to it, and that alone: it is dealt nothing more once it is looked after.
_LONGEST_SECONDS = 120.0

_log = structlog.get_logger(__name__)


async def drain_orphaned_sessions(settings: MqttSettings, folder: Path, intake: Intake, own: MqttConnection) -> None:
    """Look every two seconds for a slot that a detector has left behind, and end its session; until cancelled.

    Until this detector's `own` connection is up, there may be nobody else that messages could be dealt to.
    """
    never = asyncio.Event()
    while True:
        await wait_event(never, LOOK_SECONDS)
        await own.wait_connected()
        try:
            with abandoned_slot(folder) as slot:
                if slot is not None:
                    await _end_session(settings, slot, intake)
        except OSError as error:
            _log.warning("the slots of detectors could not be read", error=error.strerror)


async def _end_session(settings: MqttSettings, slot: Slot, intake: Intake) -> None:
    at_once = asyncio.Event()
    at_once.set()
    async with MqttConnection.open(settings, identifier=slot.identifier, subscriptions=SHARED_TOPICS) as connection:
        ended = await consume_frames(
            connection, intake, stop=at_once, may_leave=lambda: True, drain_seconds=_LONGEST_SECONDS
        )
    if ended:
        slot.give_up()
    _log.info("looked after the session of a detector that has gone", identifier=slot.identifier, ended=ended)
