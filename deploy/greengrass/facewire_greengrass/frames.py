"""Where frames come from: local topics of the nucleus, to which the MQTT bridge relays them, or the broker itself.

Both are sources as `facewire_detector.intake` takes them. Whatever the topic, its last level names the camera.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import structlog
from awsiot.greengrasscoreipc.model import ReceiveMode, SubscribeToTopicRequest  # type: ignore[import-untyped]

from facewire.adapters.mqtt.connection import MAX_UNGUARANTEED_BYTES, MqttConnection, Received
from facewire.domain.errors import IntakeError
from facewire.domain.messages import Frame
from facewire_detector.intake import Reading
from facewire_detector.topics import read_frame
from facewire_greengrass.nucleus import Nucleus, Subscription

#: What a message takes in memory beside its payload, so that empty ones are bounded too.
_OVERHEAD_BYTES = 512

_log = structlog.get_logger(__name__)


class IpcFrames:
    """Messages of a local topic. IPC has no acknowledgement: what is not committed when the process dies is lost."""

    def __init__(self, nucleus: Nucleus) -> None:
        self._nucleus = nucleus
        self._subscription: Subscription | None = None
        self._topic: str | None = None
        self._arrived: asyncio.Queue[Received] = asyncio.Queue()  # bounded in bytes by _take
        self._waiting_bytes = 0
        #: Messages dropped so far because too many bytes of them waited.
        self.dropped = 0

    async def listen(self, topic: str | None) -> None:
        """Subscribe to `topic` in place of what was subscribed before; NucleusError where that is refused."""
        if topic == self._topic:
            return
        if self._subscription is not None:
            await self._nucleus.unsubscribe(self._subscription)
        self._topic, self._subscription = topic, None
        if topic is not None:
            request = SubscribeToTopicRequest(topic=topic, receive_mode=ReceiveMode.RECEIVE_MESSAGES_FROM_OTHERS)
            self._subscription = Subscription("subscribe_to_topic", request, self._take)
            await self._nucleus.subscribe(self._subscription)

    async def messages(self) -> AsyncIterator[Received]:
        """Yield what arrives, in order; never ends by itself."""
        while True:
            message = await self._arrived.get()
            self._waiting_bytes -= len(message.payload) + _OVERHEAD_BYTES
            yield message

    async def unsubscribe(self) -> None:
        """Give up the subscription; what has arrived already is still yielded."""
        await self.listen(None)

    def _take(self, event: Any) -> None:
        topic, payload = _content(event, self._topic)
        size = len(payload) + _OVERHEAD_BYTES
        if self._waiting_bytes + size > MAX_UNGUARANTEED_BYTES:
            self.dropped += 1
            # A line for the 1st, 2nd, 4th, 8th ...: a flood must not fill the log as well.
            if self.dropped.bit_count() == 1:
                _log.warning("a message was dropped", topic=topic, dropped=self.dropped, limit=MAX_UNGUARANTEED_BYTES)
            return
        self._waiting_bytes += size
        self._arrived.put_nowait(Received(camera_topic(topic), payload, 0, _nothing))


class BrokerFrames:
    """Messages that come over a connection of our own to the broker."""

    def __init__(self, connection: MqttConnection) -> None:
        self._connection = connection

    async def messages(self) -> AsyncIterator[Received]:
        """Yield what arrives, in order; never ends by itself."""
        async for message in self._connection.messages():
            yield replace(message, topic=camera_topic(message.topic))

    async def unsubscribe(self) -> None:
        """Give up the subscription."""
        await self._connection.unsubscribe()


def camera_topic(topic: str) -> str:
    """Return the topic that a camera's frames have everywhere else: `clients/<last level of the topic>`."""
    return f"clients/{topic.rpartition('/')[2]}"


def reading(message_bytes: int) -> Reading:
    """Return what reads frames and refuses messages that the broker's limit, `message_bytes`, would not let pass.

    Other components of the core can send larger ones past the broker.
    """

    def read(topic: str, payload: bytes) -> Frame:
        if len(payload) > message_bytes:
            detail = (
                f"the message has {len(payload):,} bytes, the MQTT broker's limit is {message_bytes:,} "
                f"({message_bytes / 1024:g} KiB): send pictures of at most {message_bytes * 3 // 4 - 1024:,} bytes in "
                "JSON, or raw ones up to the limit; where the broker takes more, raise message_bytes to its limit"
            )
            raise IntakeError("too_large", detail)
        return read_frame(topic, payload)

    return read


def _content(event: Any, topic_filter: str | None) -> tuple[str, bytes]:
    """Return topic and payload of a message of either kind; a nucleus before 2.6 does not tell the topic."""
    message = event.binary_message or event.json_message
    topic = None if message.context is None else message.context.topic
    payload = message.message if event.binary_message else json.dumps(message.message).encode()
    return topic or topic_filter or "", payload or b""


def _nothing() -> None:
    """Acknowledge a message over IPC: it wants no acknowledgement."""
