"""The detector as a service: beside a broker and queues, one of as many replicas as one likes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog
from pydantic import Field

from facewire.adapters.aws.sqs.queue import SqsQueue, SqsQueues
from facewire.adapters.data_folder import open_database
from facewire.adapters.mqtt.connection import MqttConnection
from facewire.adapters.sqlite.inbox import Inbox
from facewire.adapters.sqlite.spool import REFUSALS_BYTES, FrameIntake, Spool
from facewire.domain.errors import QueueError
from facewire.runtime.background import background
from facewire.runtime.loading import load_face_detector
from facewire.runtime.probes import serving_probes
from facewire.runtime.readiness import Depth, Readiness, still_loading
from facewire.runtime.settings import LONGEST_WAIT_SECONDS, AwsSettings, DetectorSettings, ProbeSettings
from facewire.stages.detect import FaceDetector
from facewire.work.forwarding import forward_answers, forward_dead_letters
from facewire_detector.intake import Intake, consume_frames
from facewire_detector.sessions import drain_orphaned_sessions
from facewire_detector.slots import Slot, lowest_free_slot
from facewire_detector.topics import DETECTORS_TOPIC, SHARED_TOPICS
from facewire_detector.worker import run_detector

#: How soon another detector takes on the frames of one that was killed.
LEASE_SECONDS = 15.0
#: How long answers that lie here at the stop may take to leave; later ones wait for the next detector.
_LAST_ANSWERS_SECONDS = 1.0
#: How often the gateways are told that a detector is there; silent for three times as long, it counts as gone.
_PRESENT_SECONDS = 1.0

_log = structlog.get_logger(__name__)


class DetectorServiceSettings(DetectorSettings, AwsSettings, ProbeSettings):
    """How frames are taken in, how faces are found in them, and where both go.

    A frame that is older than `answer_deadline_seconds` is not looked at any more: the gateway has called it lost.

    `data_dir` holds the inbox and the slots. Detectors on one broker share it: each takes a slot there, and any of them
    works on any frame of the inbox.
    """

    data_dir: Path = Path("facewire-data")
    answer_deadline_seconds: float = Field(default=600.0, gt=0, le=LONGEST_WAIT_SECONDS)


async def run_detector_service(settings: DetectorServiceSettings, stop: asyncio.Event) -> None:
    """Detect until `stop` is set; then be dealt no more, finish what is in flight, and leave the rest to the others.

    SettingsError or ModelError where it cannot start. A broker or queue out of reach is waited for: `/readyz` names it.
    """
    readiness: dict[str, Readiness] = {"models": still_loading}
    depths: dict[str, Depth] = {}
    async with serving_probes(settings, readiness=readiness, depths=depths) as url:
        _log.info("probes are answered", url=url)
        detector = await asyncio.to_thread(load_face_detector, settings)
        async with _opened(settings) as parts:
            parts.watch(readiness, depths)
            del readiness["models"]
            await parts.run(detector, stop)


@dataclass(frozen=True, slots=True)
class _DetectorApp:
    """What the detector stands on, open."""

    settings: DetectorServiceSettings
    slot: Slot
    inbox: Inbox
    answers: Spool
    requests: SqsQueue
    responses: SqsQueue
    connection: MqttConnection

    async def run(self, detector: FaceDetector, stop: asyncio.Event) -> None:
        """Run the tasks; at the stop the answers of those that end are forwarded last."""
        worked = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            forwarding = tasks.create_task(self._forward(worked), name="forwarding")
            intake = Intake(FrameIntake(self.inbox, self.answers), self.answers)
            sessions = drain_orphaned_sessions(self.settings, self.slot.folder, intake, self.connection)
            while_working = [
                tasks.create_task(sessions, name="sessions"),
                tasks.create_task(self._say_present(), name="presence"),
            ]
            works = [
                tasks.create_task(self._take(intake, stop), name="intake"),
                tasks.create_task(self._detect(detector, stop), name="detector"),
            ]
            await stop.wait()
            for task in while_working:
                task.cancel()
            await asyncio.wait(works)
            worked.set()
            await asyncio.wait({forwarding}, timeout=_LAST_ANSWERS_SECONDS)
            forwarding.cancel()

    async def _take(self, intake: Intake, stop: asyncio.Event) -> None:
        async with background(self._mark_subscribed(stop), name="mark the slot"):
            await consume_frames(
                self.connection,
                intake,
                stop=stop,
                may_leave=lambda: self.connection.connected and self.slot.may_leave(),
                drain_seconds=self.settings.drain_seconds,
            )

    async def _mark_subscribed(self, stop: asyncio.Event) -> None:
        await self.connection.wait_connected()
        if not stop.is_set():
            self.slot.mark(subscribed=True)

    async def _say_present(self) -> None:
        """Tell the gateways, until cancelled, that what they hand over is taken here."""
        while True:
            await self.connection.wait_connected()
            try:
                await self.connection.publish(DETECTORS_TOPIC, b"")
            except QueueError as error:
                _log.debug("the gateways were not told that a detector is there", error=error.code)
            await asyncio.sleep(_PRESENT_SECONDS)

    async def _detect(self, detector: FaceDetector, stop: asyncio.Event) -> None:
        await run_detector(
            self.settings,
            inbox=self.inbox,
            requests=self.requests,
            responses=self.responses,
            detector=detector,
            stop=stop,
            lease_seconds=LEASE_SECONDS,
            deadline_seconds=self.settings.answer_deadline_seconds,
        )

    async def _forward(self, worked: asyncio.Event) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(forward_answers(self.answers, self.responses, worked), name="answers")
            for queue in (self.answers, self.inbox):
                dead = forward_dead_letters(queue.dead_letters(), self.responses, worked, source="edge")
                tasks.create_task(dead, name=f"dead letters of {queue.name}")

    def watch(self, readiness: dict[str, Readiness], depths: dict[str, Depth]) -> None:
        """Add what is to be told of these parts."""
        depths |= {queue.name: queue.depth for queue in (self.inbox, self.answers)}
        readiness |= {"mqtt": self._mqtt_lacks, "queue": self._queue_lacks, "inbox": self._inbox_lacks}

    async def _mqtt_lacks(self) -> str | None:
        return None if self.connection.connected else "no connection to the MQTT broker"

    async def _queue_lacks(self) -> str | None:
        for queue in (self.requests, self.responses):
            await queue.depth()
        return None

    async def _inbox_lacks(self) -> str | None:
        await self.inbox.depth()
        return None


@asynccontextmanager
async def _opened(settings: DetectorServiceSettings) -> AsyncIterator[_DetectorApp]:
    folder = settings.data_dir
    async with open_database(folder / "inbox.db") as database, SqsQueues.open(settings) as queues:
        answers = Spool(
            database,
            "answers",
            max_bytes=settings.inbox_bytes + REFUSALS_BYTES,
            setting="FACEWIRE_INBOX_BYTES",
            lease_seconds=LEASE_SECONDS,
        )
        inbox = Inbox(
            database,
            max_bytes=settings.inbox_bytes,
            policy=settings.inbox_policy,
            id_window_seconds=settings.id_window_seconds,
            responses=answers,
            lease_seconds=LEASE_SECONDS,
        )
        requests, responses = queues.queue(settings.request_queue), queues.queue(settings.response_queue)
        with lowest_free_slot(folder / "slots") as slot:
            async with MqttConnection.open(
                settings, identifier=slot.identifier, subscriptions=SHARED_TOPICS
            ) as connection:
                yield _DetectorApp(settings, slot, inbox, answers, requests, responses, connection)
