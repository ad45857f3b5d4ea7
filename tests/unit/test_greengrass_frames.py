from typing import cast

import pytest
from awsiot.greengrasscoreipc.model import (  # type: ignore[import-untyped]
    BinaryMessage,
    MessageContext,
    SubscriptionResponseMessage,
)

from facewire.adapters.mqtt.connection import MAX_UNGUARANTEED_BYTES
from facewire.domain.errors import IntakeError
from facewire_greengrass.frames import IpcFrames, camera_topic, reading
from facewire_greengrass.nucleus import Nucleus, Subscription

JPEG = b"\xff\xd8\xff\xe0"


def test_the_last_level_of_a_topic_names_the_camera() -> None:
    assert camera_topic("clients/door") == camera_topic("factory/hall/door") == camera_topic("door") == "clients/door"


def test_a_frame_up_to_the_limit_is_taken() -> None:
    assert reading(131_072)("clients/door", JPEG.ljust(131_072, b"x")).camera == "door"


def test_a_frame_over_the_limit_is_refused_by_its_name() -> None:
    with pytest.raises(IntakeError, match=r"131,073 bytes, the MQTT broker's limit is 131,072 \(128 KiB\)") as error:
        reading(131_072)("clients/door", JPEG.ljust(131_073, b"x"))
    assert error.value.code == "too_large"


def test_nobody_enrols_over_a_topic_of_the_core() -> None:
    payload = b'{"request_id": "r", "content": "/9j/", "enroll_as": "Eve"}'
    with pytest.raises(IntakeError) as error:
        reading(131_072)(camera_topic("enroll/r"), payload)
    assert error.value.code == "enroll_refused"


class FakeNucleus:
    """Notes what is subscribed to; the test delivers."""

    def __init__(self) -> None:
        self.subscriptions: list[Subscription] = []

    async def subscribe(self, subscription: Subscription) -> None:
        self.subscriptions.append(subscription)

    async def unsubscribe(self, subscription: Subscription) -> None:
        self.subscriptions.remove(subscription)


def event(payload: bytes, topic: str | None) -> SubscriptionResponseMessage:
    context = None if topic is None else MessageContext(topic=topic)
    return SubscriptionResponseMessage(binary_message=BinaryMessage(message=payload, context=context))


async def test_a_flood_over_ipc_is_bounded_in_bytes() -> None:
    nucleus = FakeNucleus()
    frames = IpcFrames(cast("Nucleus", nucleus))
    await frames.listen("clients/+")
    (subscription,) = nucleus.subscriptions
    for _ in range(9):
        subscription.on_event(event(bytes(MAX_UNGUARANTEED_BYTES // 8 - 512), "clients/door"))
    assert frames.dropped == 1
    subscription.on_event(event(b"", "clients/door"))
    assert frames.dropped == 2
    messages = frames.messages()
    assert (await anext(messages)).topic == "clients/door"
    subscription.on_event(event(b"now there is room", "clients/door"))
    assert frames.dropped == 2


async def test_the_same_topic_is_not_subscribed_to_twice_and_another_replaces_it() -> None:
    nucleus = FakeNucleus()
    frames = IpcFrames(cast("Nucleus", nucleus))
    for topic in ("clients/+", "clients/+", "clients/door"):
        await frames.listen(topic)
    assert [subscription.request.topic for subscription in nucleus.subscriptions] == ["clients/door"]
    nucleus.subscriptions[0].on_event(event(b"x", None))  # as a nucleus before 2.6 does it
    assert (await anext(frames.messages())).topic == "clients/door"
    await frames.unsubscribe()
    assert nucleus.subscriptions == []
