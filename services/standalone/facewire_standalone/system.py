"""All of Facewire as tasks of one process: broker, intake, detector, recognizer and gateway over one SQLite file."""

import asyncio
import socket
import sys
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from facewire.adapters.data_folder import enroll_key, open_database
from facewire.adapters.mqtt.connection import MqttConnection, Received
from facewire.adapters.sqlite.database import Database
from facewire.adapters.sqlite.gallery import SqliteGalleryStore
from facewire.adapters.sqlite.inbox import Inbox
from facewire.adapters.sqlite.queue import SqliteQueue
from facewire.adapters.sqlite.results import SqliteResultStore
from facewire.domain.errors import QueueError
from facewire.runtime.background import background
from facewire.runtime.cores import usable_cores
from facewire.runtime.logs import configure_logging
from facewire.runtime.process import keep_memory_level, stop_on_signals
from facewire.runtime.settings import MqttSettings
from facewire_detector.intake import Intake, consume_frames
from facewire_detector.topics import FRAMES_TOPIC
from facewire_detector.worker import run_detector
from facewire_gateway.api.auth import KeyRing, keys_of
from facewire_gateway.app import create_app
from facewire_gateway.connections import raise_open_files_limit
from facewire_gateway.delivery.answers import answers_going_out
from facewire_gateway.delivery.feed import Feed
from facewire_gateway.delivery.notifier import LocalNotifier
from facewire_gateway.delivery.publish import ResultPublisher
from facewire_gateway.server import listen, serve, url_of
from facewire_recognizer.worker import run_recognizer
from facewire_standalone.broker import EmbeddedBroker, embedded_broker, read_password_file
from facewire_standalone.claim import claimed
from facewire_standalone.settings import StandaloneSettings
from facewire_standalone.stages import Stages, load_stages, threads_to_share

_CONNECT_SECONDS = 10.0
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class System:
    """A running system: where it listens and where its data are. Setting `stop` stops it."""

    http_url: str
    mqtt_host: str
    mqtt_port: int
    data_dir: Path
    stop: asyncio.Event


@dataclass(frozen=True, slots=True)
class _Kept:
    """What lies in the database."""

    database: Database
    results: SqliteResultStore
    gallery: SqliteGalleryStore
    inbox: Inbox
    requests: SqliteQueue
    responses: SqliteQueue

    @classmethod
    def in_database(cls, database: Database, settings: StandaloneSettings) -> "_Kept":
        results = SqliteResultStore(database, id_window_seconds=settings.id_window_seconds)
        requests, responses = (SqliteQueue(database, name) for name in ("requests", "responses"))
        inbox = Inbox(
            database,
            max_bytes=settings.inbox_bytes,
            policy=settings.inbox_policy,
            id_window_seconds=settings.id_window_seconds,
            results=results,
            responses=responses,
        )
        return cls(database, results, SqliteGalleryStore(database), inbox, requests, responses)

    @property
    def queues(self) -> tuple[SqliteQueue, ...]:
        """Return all queues."""
        return self.inbox, self.requests, self.responses

    async def end_leases(self) -> None:
        """Take back what a process that was killed had in flight; nobody else can have, the folder is claimed."""
        for queue in self.queues:
            await queue.end_leases()


@asynccontextmanager
async def running_system(settings: StandaloneSettings) -> AsyncIterator[System]:
    """Run everything while the block does; it takes frames and answers when the block starts.

    Started in the order database, broker, recognizer, detector, gateway; cameras are let in last. In the end they are
    shut out first; what the broker has taken of them until then is committed and what is in flight is finished, within
    `drain_seconds`, and the rest waits in the database for the next start. SettingsError or
    ModelError where it cannot start; an ExceptionGroup where one of the tasks fails.
    """
    with claimed(settings.data_dir):
        key = enroll_key(settings.data_dir)
        stages = await asyncio.to_thread(load_stages, settings)
        async with (
            open_database(settings.database_file) as database,
            embedded_broker(
                settings.mqtt_host,
                settings.mqtt_port,
                backlog_bytes=settings.mqtt_backlog_bytes,
                password_file=settings.mqtt_password_file,
                closed=True,
            ) as broker,
            _connections(_inner_settings(settings, broker)) as (cameras, publishing),
            threads_to_share(settings, usable_cores()) as threads,
        ):
            kept = _Kept.in_database(database, settings)
            await kept.end_leases()
            frames = _Frames(cameras, broker)
            parts = _StandaloneApp(settings, stages, threads, kept, frames, ResultPublisher(publishing), key)
            async with parts.running() as system:
                yield system


def _inner_settings(settings: StandaloneSettings, broker: EmbeddedBroker) -> MqttSettings:
    """Return how our own connections reach the embedded broker: as the first user of its password file, if any."""
    users = {} if settings.mqtt_password_file is None else read_password_file(settings.mqtt_password_file)
    user, password = next(iter(users.items()), (None, None))
    return settings.model_copy(
        update={
            "mqtt_host": "127.0.0.1",
            "mqtt_port": broker.inner_port,
            "mqtt_username": user,
            "mqtt_password": password,
            "mqtt_ca_file": None,
            "mqtt_cert_file": None,
            "mqtt_key_file": None,
        }
    )


@asynccontextmanager
async def _connections(settings: MqttSettings) -> AsyncIterator[tuple[MqttConnection, MqttConnection]]:
    """Yield the connection that takes frames in and the one that answers go out by, both up."""
    async with (
        MqttConnection.open(settings, identifier="facewire-intake", subscriptions=[FRAMES_TOPIC]) as cameras,
        MqttConnection.open(settings) as publishing,
    ):
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                await cameras.wait_connected()
                await publishing.wait_connected()
        except TimeoutError as error:
            raise QueueError("mqtt_not_connected", f"the MQTT broker {cameras.broker} does not answer") from error
        yield cameras, publishing


@dataclass(frozen=True, slots=True)
class _Frames:
    """What cameras publish: the embedded broker forgets it at the end, so all of it is taken before."""

    connection: MqttConnection
    broker: EmbeddedBroker

    def messages(self) -> AsyncIterator[Received]:
        """Yield what arrives, in order; never ends by itself."""
        return self.connection.messages()

    async def unsubscribe(self) -> None:
        """Let cameras publish nothing more; what they have a PUBACK for still comes."""
        await self.broker.shut_cameras_out()


@dataclass(frozen=True, slots=True)
class _StandaloneApp:
    """The parts of the system, and how they run together."""

    settings: StandaloneSettings
    stages: Stages
    threads: Executor | None
    kept: _Kept
    frames: _Frames
    publisher: ResultPublisher
    enroll_key: bytes = field(repr=False)
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    started: asyncio.Event = field(default_factory=asyncio.Event)
    stopped: asyncio.Event = field(default_factory=asyncio.Event)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[System]:
        keys = keys_of(self.settings, self.settings.data_dir)
        listener = listen(self.settings, keys_required=keys.required)
        http_url = url_of(listener, self.settings)
        async with background(self._run(keys, listener), name="facewire"):
            try:
                await self.started.wait()
                broker = self.frames.broker
                broker.let_cameras_in()
                yield System(http_url, broker.host, broker.port, self.settings.data_dir, self.stop)
            finally:
                self.stop.set()
                await self.stopped.wait()

    async def _run(self, keys: KeyRing, listener: socket.socket) -> None:
        """Run the tasks; at the stop the workers end first, so that their last answers are still stored."""
        kept = self.kept
        feed = Feed(kept.results)
        try:
            async with (
                answers_going_out(
                    self.settings,
                    results=kept.results,
                    notifier=LocalNotifier(feed, self.publisher),
                    publisher=self.publisher,
                    responses=kept.responses,
                    dead_letters={queue.name: queue.dead_letters() for queue in kept.queues},
                ),
                asyncio.TaskGroup() as tasks,
            ):
                self._start_workers(tasks, keys, feed, listener)
                self.started.set()
        finally:
            self.stopped.set()

    def _start_workers(self, tasks: asyncio.TaskGroup, keys: KeyRing, feed: Feed, listener: socket.socket) -> None:
        settings, kept, stop = self.settings, self.kept, self.stop
        intake = Intake(kept.inbox, kept.responses)
        app = create_app(
            settings,
            sink=intake,
            results=kept.results,
            gallery=kept.gallery,
            feed=feed,
            enroll_key=self.enroll_key,
            keys=keys,
            readiness={"database": self._database_lacks, "mqtt": self._mqtt_lacks},
            depths={queue.name: queue.depth for queue in kept.queues},
        )
        works = {
            "recognizer": run_recognizer(
                settings,
                requests=kept.requests,
                responses=kept.responses,
                recognizer=self.stages.recognizer,
                shared_threads=self.threads,
                gallery_store=kept.gallery,
                enroll_key=self.enroll_key,
                stop=stop,
            ),
            "detector": run_detector(
                settings,
                inbox=kept.inbox,
                requests=kept.requests,
                responses=kept.responses,
                detector=self.stages.detector,
                deadline_seconds=settings.answer_deadline_seconds,
                shared_threads=self.threads,
                stop=stop,
            ),
            "intake": self._take(intake),
            "gateway": serve(app, listener, settings, feed=feed, stop=stop),
        }
        for name, work in works.items():
            tasks.create_task(work, name=name)

    async def _take(self, intake: Intake) -> None:
        drain_seconds = self.settings.drain_seconds
        await consume_frames(self.frames, intake, stop=self.stop, may_leave=lambda: True, drain_seconds=drain_seconds)

    async def _database_lacks(self) -> str | None:
        await self.kept.database.check()
        return None

    async def _mqtt_lacks(self) -> str | None:
        connection = self.frames.connection
        return None if connection.connected else "no connection to the MQTT broker"


#: How long a thread may keep the interpreter while others wait for it. Those that compute need it often and shortly:
#: with the default of 5 ms a core stands idle while the event loop keeps it, which costs 3 to 6 % of the frames.
_SWITCH_SECONDS = 0.001


async def run_until_signalled(settings: StandaloneSettings, write: Callable[[str], None]) -> None:
    """Run the system until SIGTERM or SIGINT; once it is ready, `write` one line per address."""
    configure_logging(settings.log_level, settings.log_format)
    keep_memory_level()
    sys.setswitchinterval(_SWITCH_SECONDS)
    raise_open_files_limit()
    async with stop_on_signals() as stop, running_system(settings) as system:
        write(f"HTTP API     {system.http_url}")
        write(f"MQTT broker  mqtt://{system.mqtt_host}:{system.mqtt_port}")
        write(f"Data folder  {system.data_dir}")
        await stop.wait()
