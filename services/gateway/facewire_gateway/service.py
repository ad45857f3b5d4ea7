"""The gateway as a service: beside a broker, queues and stores that it shares, one of as many replicas as one likes."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import structlog
from pydantic import Field

from facewire.adapters.aws.sqs.queue import SqsQueue, SqsQueues
from facewire.adapters.data_folder import enroll_key, open_database
from facewire.adapters.mqtt.connection import MqttConnection
from facewire.adapters.sqlite.inbox import Inbox
from facewire.adapters.stores import open_stores
from facewire.domain.ports import GalleryStore, ResultStore
from facewire.domain.timing import SettledClock
from facewire.runtime.background import background
from facewire.runtime.process import give_back_from
from facewire.runtime.settings import GatewaySettings, StoreSettings
from facewire_gateway.api.auth import KeyRing, keys_of
from facewire_gateway.app import create_app
from facewire_gateway.connections import raise_open_files_limit
from facewire_gateway.delivery.answers import answers_going_out
from facewire_gateway.delivery.backlog import DETECTORS_TOPIC, Backlog, Detectors
from facewire_gateway.delivery.feed import Feed
from facewire_gateway.delivery.handover import LEASE_SECONDS, HandOver
from facewire_gateway.delivery.notifier import ReplicatedNotifier
from facewire_gateway.delivery.outbox import Outbox
from facewire_gateway.delivery.publish import ResultPublisher
from facewire_gateway.delivery.relay import RESULTS_TOPICS, relay
from facewire_gateway.server import listen, serve, url_of

_log = structlog.get_logger(__name__)

#: Bodies of this size or more leave no gaps in the heap: with 25 of 10 MiB at once that is a third of the memory.
_UPLOAD_BYTES = 1024 * 1024


class GatewayServiceSettings(GatewaySettings, StoreSettings):
    """How the gateway runs beside a broker, queues and stores that it shares with others.

    An upload is handed over again `handover_seconds` after the first time, and later after twice as long each time.
    `mqtt_max_bytes` is the broker's limit on a payload: 128 KiB on Greengrass and IoT Core.
    """

    outbox_bytes: int = Field(default=1024**3, ge=1024**2)
    handover_seconds: float = Field(default=15.0, gt=0, le=3600)
    mqtt_max_bytes: int = Field(default=16 * 1024**2, ge=1024)

    @property
    def outbox_file(self) -> Path:
        """Return the file that holds the outbox, one for all gateways of the folder, whatever keeps the results."""
        return self.data_dir / "outbox.db"


async def run_gateway(settings: GatewayServiceSettings, stop: asyncio.Event) -> None:
    """Serve until `stop` is set; then take no more requests, hand nothing over, and settle the answers that are there.

    SettingsError where it cannot start. A broker, queue or store out of reach is waited for: `/readyz` names it.
    """
    raise_open_files_limit()
    give_back_from(_UPLOAD_BYTES)
    keys = keys_of(settings, settings.data_dir)
    with listen(settings, keys_required=keys.required) as listener:
        async with _opened(settings) as parts:
            await parts.run(keys, listener, stop)


@dataclass(frozen=True, slots=True)
class _GatewayApp:
    """What the gateway stands on, open."""

    settings: GatewayServiceSettings
    enroll_key: bytes = field(repr=False)
    results: ResultStore
    gallery: GalleryStore
    outbox: Outbox
    requests: SqsQueue
    responses: SqsQueue
    publishing: MqttConnection
    listening: MqttConnection

    async def run(self, keys: KeyRing, listener: socket.socket, stop: asyncio.Event) -> None:
        frames = self.outbox.frames
        # Half of the time for requests, half for answers.
        settings = self.settings.model_copy(update={"drain_seconds": self.settings.drain_seconds / 2})
        feed = Feed(self.results)
        publisher = ResultPublisher(self.publishing, uploads=True)
        app = create_app(
            settings,
            sink=self.outbox,
            results=self.results,
            gallery=self.gallery,
            feed=feed,
            enroll_key=self.enroll_key,
            keys=keys,
            readiness={
                "mqtt": self._mqtt_lacks,
                "queue": self._queue_lacks,
                "store": self._store_lacks,
                "outbox": self._outbox_lacks,
            },
            depths={queue.name: queue.depth for queue in (frames, self.requests, self.responses)},
        )
        answers = answers_going_out(
            settings,
            results=self.results,
            notifier=ReplicatedNotifier(feed, publisher, self.outbox),
            publisher=publisher,
            responses=self.responses,
            dead_letters={queue.name: queue.dead_letters() for queue in (frames, self.requests, self.responses)},
        )
        detectors = Detectors()
        hand_over = HandOver(
            frames,
            self.results,
            self.publishing,
            Backlog(self.requests.depth),
            settings,
            detectors,
            clock=SettledClock(settings.answer_deadline_seconds),
        )
        async with (
            background(detectors.listen(self.publishing.messages()), name="detectors"),
            background(relay(self.listening, feed, self.results), name="relay"),
            answers,
            asyncio.TaskGroup() as tasks,
        ):
            tasks.create_task(hand_over.run(stop), name="hand-over")
            tasks.create_task(serve(app, listener, settings, feed=feed, stop=stop), name="server")
            _log.info("the gateway listens", url=url_of(listener, settings))

    async def _mqtt_lacks(self) -> str | None:
        if self.publishing.connected and self.listening.connected:
            return None
        return "no connection to the MQTT broker"

    async def _queue_lacks(self) -> str | None:
        await self.responses.depth()
        return None

    async def _store_lacks(self) -> str | None:
        await self.gallery.version()
        return None

    async def _outbox_lacks(self) -> str | None:
        await self.outbox.frames.depth()
        return None


@asynccontextmanager
async def _opened(settings: GatewayServiceSettings) -> AsyncIterator[_GatewayApp]:
    key = enroll_key(settings.data_dir, settings.enroll_key)
    async with (
        open_database(settings.outbox_file) as database,
        open_stores(
            settings,
            id_window_seconds=settings.id_window_seconds,
            kept_days=settings.results_days,
        ) as (results, gallery),
        SqsQueues.open(settings) as queues,
        MqttConnection.open(settings, subscriptions=[DETECTORS_TOPIC]) as publishing,
        MqttConnection.open(settings, subscriptions=RESULTS_TOPICS) as listening,
    ):
        frames = Inbox(
            database,
            "outbox",
            max_bytes=settings.outbox_bytes,
            policy="all",
            id_window_seconds=settings.id_window_seconds,
            lease_seconds=LEASE_SECONDS,
        )
        outbox = Outbox(
            frames,
            results,
            mqtt_max_bytes=settings.mqtt_max_bytes,
            id_window_seconds=settings.id_window_seconds,
        )
        requests, responses = queues.queue(settings.request_queue), queues.queue(settings.response_queue)
        yield _GatewayApp(settings, key, results, gallery, outbox, requests, responses, publishing, listening)
