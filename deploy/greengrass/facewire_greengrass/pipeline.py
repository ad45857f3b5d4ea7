"""The detector on this core, from a source of frames to the queues: what one configuration asks for, open.

Frames wait in the inbox. What follows from them waits in the spool until SQS takes it, so that detection goes on while
SQS is out of reach, and answers that need no cloud reach the devices all the same.
"""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import structlog

from facewire.adapters.aws.sqs.queue import SqsQueue, SqsQueues
from facewire.adapters.data_folder import open_database
from facewire.adapters.mqtt.connection import MqttConnection
from facewire.adapters.sqlite.database import Database
from facewire.adapters.sqlite.inbox import Inbox
from facewire.adapters.sqlite.queue import SqliteQueue
from facewire.adapters.sqlite.spool import REFUSALS_BYTES, FrameIntake, Spool
from facewire.stages.detect import FaceDetector
from facewire.work.forwarding import forward_answers, forward_dead_letters
from facewire_detector.intake import FrameSource, Intake, consume_frames
from facewire_detector.worker import run_detector
from facewire_greengrass.configuration import Prepared
from facewire_greengrass.frames import BrokerFrames, IpcFrames, reading
from facewire_greengrass.nucleus import Nucleus
from facewire_greengrass.requests import Requests
from facewire_greengrass.results import Publish, Results, nowhere, over_iot_core, over_ipc
from facewire_greengrass.settings import ComponentSettings

LEASE_SECONDS = 15.0
#: How long messages that lie here at the end may take to leave; later ones wait for the next start.
_LAST_MESSAGES_SECONDS = 1.0

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """What the component stands on, open."""

    settings: ComponentSettings
    detector: FaceDetector
    source: FrameSource
    inbox: Inbox
    refusals: Spool
    spooled_requests: Spool
    spooled_answers: Spool
    spooled_results: SqliteQueue
    requests: SqsQueue
    responses: SqsQueue
    cloud_answers: SqsQueue | None
    publish: Publish

    async def run(self, ended: asyncio.Event, stop: asyncio.Event) -> None:
        """Detect until `ended` is set, then finish what is in flight. The topic is left only with `stop`."""
        worked = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            moves = [tasks.create_task(move, name=name) for name, move in self._moves(ended, worked)]
            works = [
                tasks.create_task(self._take(ended, stop), name="intake"),
                tasks.create_task(self._detect(ended), name="detector"),
            ]
            await ended.wait()
            await asyncio.wait(works)
            worked.set()
            await asyncio.wait(moves, timeout=_LAST_MESSAGES_SECONDS)
            for move in moves:
                move.cancel()

    async def _take(self, ended: asyncio.Event, stop: asyncio.Event) -> None:
        leaves = self.settings.source == "ipc"
        await consume_frames(
            self.source,
            Intake(FrameIntake(self.inbox, self.refusals), self.refusals),
            stop=ended,
            # What a broker holds for our session can wait there; over IPC nobody holds anything.
            may_leave=lambda: leaves and stop.is_set(),
            drain_seconds=self.settings.drain_seconds,
            reading=reading(self.settings.message_bytes),
        )

    async def _detect(self, ended: asyncio.Event) -> None:
        await run_detector(
            self.settings,
            inbox=self.inbox,
            requests=self.spooled_requests,
            responses=self.spooled_answers,
            detector=self.detector,
            stop=ended,
            lease_seconds=LEASE_SECONDS,
        )

    def _moves(self, ended: asyncio.Event, worked: asyncio.Event) -> Iterator[tuple[str, Coroutine[Any, Any, None]]]:
        yield "refusals", forward_answers(self.refusals, self.spooled_answers, worked)
        requests = Requests(self.requests, self.spooled_answers)
        yield "requests", forward_answers(self.spooled_requests, requests, worked)
        yield "answers", forward_answers(self.spooled_answers, self.responses, worked)
        topic = self.settings.results_topic
        yield "results", forward_answers(self.spooled_results, Results(self.publish, topic), worked)
        if self.cloud_answers is not None:
            # What the edge answered is published already.
            results = Results(self.publish, topic, skipped="edge")
            yield "cloud answers", forward_answers(self.cloud_answers, results, ended)
        for queue in (self.inbox, self.refusals, self.spooled_requests, self.spooled_answers):
            dead = forward_dead_letters(queue.dead_letters(), self.spooled_answers, worked, source="edge")
            yield f"dead letters of {queue.name}", dead


@asynccontextmanager
async def open_pipeline(prepared: Prepared, nucleus: Nucleus, frames: IpcFrames) -> AsyncIterator[Pipeline]:
    """Open everything; SettingsError where a folder or file cannot be used, NucleusError where the topic is refused."""
    settings = prepared.settings
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(open_database(settings.data_dir / "inbox.db"))
        spool = await stack.enter_async_context(open_database(settings.data_dir / "spool.db"))
        sqs = await stack.enter_async_context(SqsQueues.open(settings))
        connection = await stack.enter_async_context(_connection(settings))
        refusals = _refusals(settings, database)
        results = SqliteQueue(spool, "results", lease_seconds=LEASE_SECONDS)
        pipeline = Pipeline(
            settings=settings,
            detector=prepared.detector,
            source=frames if connection is None else BrokerFrames(connection),
            inbox=_inbox(settings, database, refusals),
            refusals=refusals,
            spooled_requests=_spool(settings, spool, "requests"),
            spooled_answers=_spool(settings, spool, "answers", *([] if settings.results == "off" else [results])),
            spooled_results=results,
            requests=sqs.queue(settings.request_queue),
            responses=sqs.queue(settings.response_queue),
            cloud_answers=_cloud_answers(settings, sqs),
            publish=_publish(settings, nucleus, connection),
        )
        await _end_leases(pipeline)
        await frames.listen(settings.topic if connection is None else None)
        yield pipeline


@asynccontextmanager
async def _connection(settings: ComponentSettings) -> AsyncIterator[MqttConnection | None]:
    """Keep a connection to the broker where frames come straight from it; its session there outlives the process."""
    if settings.source == "ipc":
        yield None
        return
    async with MqttConnection.open(
        settings, identifier=settings.mqtt_client_id, subscriptions=[settings.topic]
    ) as connection:
        yield connection


def _inbox(settings: ComponentSettings, database: Database, refusals: Spool) -> Inbox:
    return Inbox(
        database,
        max_bytes=settings.inbox_bytes,
        policy=settings.inbox_policy,
        id_window_seconds=settings.id_window_seconds,
        responses=refusals,
        lease_seconds=LEASE_SECONDS,
    )


def _refusals(settings: ComponentSettings, database: Database) -> Spool:
    bound = settings.inbox_bytes + REFUSALS_BYTES
    return Spool(database, "refusals", max_bytes=bound, setting="inbox_bytes", lease_seconds=LEASE_SECONDS)


def _spool(settings: ComponentSettings, database: Database, name: str, *copies: SqliteQueue) -> Spool:
    return Spool(database, name, max_bytes=settings.spool_bytes, lease_seconds=LEASE_SECONDS, copies=copies)


def _cloud_answers(settings: ComponentSettings, sqs: SqsQueues) -> SqsQueue | None:
    """Return the queue of the cloud's answers; while none are published they stay in it."""
    if settings.results_queue is None or settings.results == "off":
        return None
    return sqs.queue(settings.results_queue)


def _publish(settings: ComponentSettings, nucleus: Nucleus, connection: MqttConnection | None) -> Publish:
    if settings.results == "off":
        return nowhere
    if settings.results == "iot_core":
        return over_iot_core(nucleus)
    return over_ipc(nucleus) if connection is None else connection.publish


async def _end_leases(pipeline: Pipeline) -> None:
    """Take back what a process before this one was killed with: there is no other that could be at work on it."""
    queues = (pipeline.inbox, pipeline.refusals, pipeline.spooled_requests, pipeline.spooled_answers)
    for queue in (*queues, pipeline.spooled_results):
        await queue.end_leases()
