"""An MQTT 3.1.1 connection that stays: it reconnects, yields messages, acknowledges in order of arrival, publishes.

Delivery is at least once in both directions, so whatever is received or published may come twice.

What bounds the memory of received messages: QoS 1 by the broker's window of messages in flight (mosquitto
`max_inflight_messages`, rumqttd 100), because the window moves on only when a message is acknowledged; QoS 0, which has
no window, by MAX_UNGUARANTEED_BYTES. A resumed session has its window sent again, so what waits of it is dropped.
Reading itself never stops: a broker does not slow its publishers down for a subscriber that does not read, it drops
what it has acknowledged to them.
"""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Self

import aiomqtt
import structlog

from facewire.adapters.mqtt.acknowledgements import OrderedAcknowledger
from facewire.adapters.mqtt.client import MAX_PUBLISHES, new_client, paho
from facewire.adapters.mqtt.tls import tls_context, with_secret
from facewire.domain.errors import QueueError
from facewire.runtime.background import background
from facewire.runtime.backoff import end_if_cancelled, growing_pauses
from facewire.runtime.settings import MqttSettings

#: QoS 0 messages that wait for the consumer are dropped and counted beyond this.
MAX_UNGUARANTEED_BYTES = 64 * 1024 * 1024
FIRST_RETRY_SECONDS = 0.1
LONGEST_RETRY_SECONDS = 10.0

_log = structlog.get_logger(__name__)


class _Session:
    """One connection to the broker, from CONNACK to its loss."""

    def __init__(self, client: aiomqtt.Client) -> None:
        self.client = client
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.acknowledger = OrderedAcknowledger(self._send_puback)

    def _send_puback(self, mid: int) -> None:
        paho(self.client).ack(mid, 1)

    def close(self) -> None:
        """Note that the connection is lost: pending publishes fail, later acknowledgements go nowhere."""
        self.acknowledger.forget()
        self.lost.set_result(None)

    async def publish(self, topic: str, payload: bytes, timeout: float) -> None:  # noqa: ASYNC109 - aiomqtt's own
        """Publish at QoS 1; MqttError when the PUBACK does not come in time or cannot come any more."""
        sending = asyncio.create_task(self.client.publish(topic, payload, qos=1, timeout=timeout), name="mqtt publish")
        try:
            await asyncio.wait({sending, self.lost}, return_when=asyncio.FIRST_COMPLETED)
            if not sending.done():
                message = "the connection was lost before the message was acknowledged"
                raise aiomqtt.MqttError(message)
            await sending
        finally:
            sending.cancel()


@dataclass(slots=True, eq=False)
class Received:
    """A message that came in. Acknowledge it once it is safe; until then the broker keeps it (QoS 1)."""

    topic: str
    payload: bytes
    qos: int
    _acknowledge: Callable[[], None] = field(repr=False)

    def acknowledge(self) -> None:
        """Let the broker forget the message. The PUBACK leaves after those of all earlier messages.

        Does nothing where the connection it came over is lost: the broker will send the message again.
        """
        self._acknowledge()


class MqttConnection:
    """A connection to the broker of `settings` that is made again for as long as the block lasts.

    With an `identifier` the session is persistent: the broker keeps the subscriptions and, for QoS 1, what comes while
    nobody is connected. Without one the broker gives a fresh session to every connection.
    """

    def __init__(self, settings: MqttSettings, *, identifier: str | None, subscriptions: Sequence[str]) -> None:
        self._settings = settings
        self._identifier = identifier
        self._subscriptions = with_secret(subscriptions, settings)
        self._tls = tls_context(settings)
        self._session: _Session | None = None
        self._subscribed = asyncio.Event()
        self._leaving = asyncio.Event()
        self._left = asyncio.Event()
        # Unbounded on purpose, see the module's docstring: what is discarded here would never be acknowledged.
        self._arrived: asyncio.Queue[Received] = asyncio.Queue()
        self._publishing = asyncio.Semaphore(MAX_PUBLISHES)
        self._unguaranteed_bytes = 0
        self._outage_since: float | None = None
        self._pauses = growing_pauses(FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS)
        #: QoS 0 messages dropped so far because too many bytes of them waited.
        self.dropped = 0
        #: How often the connection has been made so far.
        self.connections = 0

    @classmethod
    @asynccontextmanager
    async def open(
        cls, settings: MqttSettings, *, identifier: str | None = None, subscriptions: Sequence[str] = ()
    ) -> AsyncIterator[Self]:
        """Keep a connection while the block runs; it need not be up yet when the block starts.

        Every one of `subscriptions` (topic filters) is made at QoS 1, again on every connection; shared ones in a group
        whose name ends with the secret of the settings, if there is one. SettingsError where a file of the settings
        cannot be used; a broker out of reach is no error, `connected` tells.
        """
        connection = cls(settings, identifier=identifier, subscriptions=subscriptions)
        async with background(connection._stay_connected(), name=f"mqtt {identifier or 'connection'}"):
            yield connection

    @property
    def broker(self) -> str:
        """The broker's `host:port`."""
        return f"{self._settings.mqtt_host}:{self._settings.mqtt_port}"

    @property
    def connected(self) -> bool:
        """Whether messages can come and go: the subscriptions are confirmed, or held by a resumed session."""
        return self._subscribed.is_set()

    async def wait_connected(self) -> None:
        """Return once the connection is up; bound it with `asyncio.timeout`."""
        await self._subscribed.wait()

    async def messages(self) -> AsyncIterator[Received]:
        """Yield what arrives, in order, over all connections; never ends by itself."""
        while True:
            message = await self._arrived.get()
            if message.qos == 0:
                self._unguaranteed_bytes -= len(message.payload)
            yield message

    async def unsubscribe(self) -> None:
        """Give up the subscriptions for good and return when the broker has confirmed it; bound it with a timeout.

        What the broker holds for the session already still comes. Called before the first connection is up, none of the
        subscriptions is made: a session that is there of old is resumed and comes to its end.
        """
        self._leaving.set()
        await self._left.wait()

    async def publish(self, topic: str, payload: bytes, *, timeout: float = 10.0) -> None:  # noqa: ASYNC109 - of the PUBACK alone, not of the wait for a free place
        """Publish at QoS 1 and return when the broker has it; at most 20 at once, further callers wait.

        QueueError `mqtt_not_connected` when there is no connection, `mqtt_publish` when it was lost (also what a
        payload over the broker's limit causes) or the PUBACK did not come within `timeout` seconds. The message may
        have arrived all the same: publish again what must arrive.
        """
        async with self._publishing:
            if self._session is None:
                raise QueueError("mqtt_not_connected", f"no connection to the MQTT broker {self.broker}: try again")
            try:
                await self._session.publish(topic, payload, timeout)
            except aiomqtt.MqttError as error:
                detail = f"{len(payload):,} bytes to {topic} on the MQTT broker {self.broker}: {error}"
                raise QueueError("mqtt_publish", detail) from error

    async def _stay_connected(self) -> None:
        while True:
            try:
                await self._hold_connection()
            except* aiomqtt.MqttError as failures:
                self._note_outage(failures.exceptions[0])
            end_if_cancelled()
            await asyncio.sleep(next(self._pauses))

    async def _hold_connection(self) -> None:
        """Connect, subscribe and read until the connection is lost; raises MqttError, alone or in a group.

        A new client each time: one of aiomqtt 2.5.1 that is used again takes itself for connected before CONNACK, can
        miss a disconnect, and still holds messages whose packet identifiers are void.
        """
        client = new_client(self._settings, self._tls, self._identifier, self._drop_what_comes_again)
        try:
            # Read before SUBACK is here: on a resumed session unacknowledged messages come first.
            async with client, background(self._keep_subscriptions(client), name="mqtt subscriptions"):
                await self._read(client)
        finally:
            # aiomqtt leaves the socket open where the broker did not answer CONNECT.
            paho(client).disconnect()

    def _drop_what_comes_again(self) -> None:
        """Drop the QoS 1 messages nobody has taken yet: the broker that resumes their session sends them again.

        Kept, they would pile up over reconnects for as long as the consumer is stuck.
        """
        waiting = [self._arrived.get_nowait() for _ in range(self._arrived.qsize())]
        for message in waiting:
            if message.qos == 0:
                self._arrived.put_nowait(message)

    async def _keep_subscriptions(self, client: aiomqtt.Client) -> None:
        """Hold the subscriptions for as long as they are wanted, then give them up."""
        if not self._leaving.is_set():
            await self._subscribe(client)
        self._note_connection()
        await self._leaving.wait()
        if self._subscriptions:
            await client.unsubscribe(list(self._subscriptions), timeout=math.inf)
        self._left.set()

    async def _subscribe(self, client: aiomqtt.Client) -> None:
        if self._subscriptions:
            topics = [(topic, 1) for topic in self._subscriptions]
            # On a resumed session SUBACK comes after the messages of a full window, whenever those are acknowledged.
            granted = await client.subscribe(topics, timeout=math.inf)
            for topic, reason in zip(self._subscriptions, granted, strict=True):
                if getattr(reason, "is_failure", False):
                    message = f"the broker refused the subscription to {topic}: {reason}"
                    raise aiomqtt.MqttError(message)

    async def _read(self, client: aiomqtt.Client) -> None:
        self._session = session = _Session(client)
        try:
            async for message in client.messages:
                self._take(session, message)
        finally:
            self._session = None
            self._subscribed.clear()
            session.close()

    def _take(self, session: _Session, message: aiomqtt.Message) -> None:
        # Before SUBACK: a resumed session, its subscriptions hold. Who takes nothing before SUBACK would wait for ever.
        self._note_connection()
        topic = str(message.topic)
        if message.qos == 0:
            self._take_unguaranteed(topic, message.payload)
        else:
            arrival = session.acknowledger.arrived(message.mid)
            done = partial(session.acknowledger.done, arrival)
            self._arrived.put_nowait(Received(topic, message.payload, message.qos, done))

    def _take_unguaranteed(self, topic: str, payload: bytes) -> None:
        if self._unguaranteed_bytes + len(payload) > MAX_UNGUARANTEED_BYTES:
            self.dropped += 1
            # A line for the 1st, 2nd, 4th, 8th ...: a flood must not fill the log as well.
            if self.dropped.bit_count() == 1:
                _log.warning(
                    "a QoS 0 message was dropped", topic=topic, dropped=self.dropped, limit=MAX_UNGUARANTEED_BYTES
                )
            return
        self._unguaranteed_bytes += len(payload)
        self._arrived.put_nowait(Received(topic, payload, 0, _nothing))

    def _note_connection(self) -> None:
        if self._subscribed.is_set():
            return
        self._pauses = growing_pauses(FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS)
        outage = None if self._outage_since is None else round(time.monotonic() - self._outage_since, 3)
        self._outage_since = None
        self.connections += 1
        self._subscribed.set()
        _log.info(
            "connected to the MQTT broker", broker=self.broker, identifier=self._identifier, outage_seconds=outage
        )

    def _note_outage(self, error: Exception) -> None:
        if self._outage_since is not None:
            return
        self._outage_since = time.monotonic()
        _log.warning(
            "no connection to the MQTT broker",
            broker=self.broker,
            identifier=self._identifier,
            error=str(error.__cause__ or error),
        )


def _nothing() -> None:
    """Acknowledge a QoS 0 message: it wants no acknowledgement."""
