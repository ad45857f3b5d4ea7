"""Answers go back to the devices that sent the frames."""

from collections.abc import Awaitable, Callable, Sequence

import structlog
from awsiot.greengrasscoreipc.model import (  # type: ignore[import-untyped]
    QOS,
    BinaryMessage,
    PublishMessage,
    PublishToIoTCoreRequest,
    PublishToTopicRequest,
)

from facewire.domain.errors import FacewireError, needs_operator
from facewire.domain.messages import RecognizedFaces, Source
from facewire.domain.names import check_camera
from facewire_greengrass.nucleus import Nucleus
from facewire_greengrass.nucleus_errors import NucleusError
from facewire_greengrass.settings import BROKER_MESSAGE_BYTES

#: Publishes a payload to a topic; QueueError where that cannot be done now.
Publish = Callable[[str, bytes], Awaitable[None]]

_log = structlog.get_logger(__name__)


def over_ipc(nucleus: Nucleus) -> Publish:
    """Publish to local topics, from which the MQTT bridge relays to the broker."""

    async def publish(topic: str, payload: bytes) -> None:
        message = PublishMessage(binary_message=BinaryMessage(message=payload))
        await nucleus.ask("publish_to_topic", PublishToTopicRequest(topic=topic, publish_message=message))

    return publish


def over_iot_core(nucleus: Nucleus) -> Publish:
    """Publish to AWS IoT Core; while that is out of reach the nucleus keeps what its own spooler has room for."""

    async def publish(topic: str, payload: bytes) -> None:
        request = PublishToIoTCoreRequest(topic_name=topic, qos=QOS.AT_LEAST_ONCE, payload=payload)
        await nucleus.ask("publish_to_iot_core", request)

    return publish


async def nowhere(_topic: str, _payload: bytes) -> None:
    """Publish nothing: nobody has asked for results."""


class Results:
    """Takes answers and publishes each to the topic of its camera, `topic` with the camera's name in place of `+`.

    Answers without a camera, or from a source that is to be `skipped`, are nobody's here. One that is too large for
    the broker, or whose topic the nucleus refuses, is logged and dropped: it would hold up all that follow it for ever.
    """

    def __init__(self, publish: Publish, topic: str, *, skipped: Source | None = None) -> None:
        self._publish = publish
        self._topic = topic
        self._skipped = skipped

    async def send(self, bodies: Sequence[bytes]) -> None:
        """Publish the answers in order; QueueError where one cannot be published now: send all again."""
        for body in bodies:
            if (topic := self._topic_of(body)) is not None:
                await self._publish_or_drop(topic, body)

    async def _publish_or_drop(self, topic: str, body: bytes) -> None:
        try:
            await self._publish(topic, body)
        except NucleusError as error:
            if not needs_operator(error):
                raise
            _log.error("an answer was refused, and is lost", topic=topic, error=error.code, detail=error.detail)

    def _topic_of(self, body: bytes) -> str | None:
        try:
            answer = RecognizedFaces.from_bytes(body)
            camera = None if answer.camera is None else check_camera(answer.camera)
        except (FacewireError, ValueError) as error:
            _log.warning("an answer cannot be published", error=type(error).__name__, size=len(body))
            return None
        if camera is None or answer.source == self._skipped:
            return None
        if len(body) > BROKER_MESSAGE_BYTES:
            _log.error(
                "an answer is too large", request_id=answer.request_id, size=len(body), limit=BROKER_MESSAGE_BYTES
            )
            return None
        return self._topic.replace("+", camera)
