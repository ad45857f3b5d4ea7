"""What the broker of the containers refuses to devices."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from compose_stack import Stack, answers_to, submit
from facewire.adapters.mqtt.connection import MqttConnection
from facewire_standalone.commands.camera import Camera
from facewire_standalone.commands.client import Client, ClientError, Picture

SECONDS = 30.0


@pytest.fixture(scope="module")
def stranger(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the certificate of another device."""
    return stack.make_device("stranger", tmp_path_factory.mktemp("stranger"))


@asynccontextmanager
async def connected(stack: Stack, bundle: Path, subscriptions: Sequence[str] = ()) -> AsyncIterator[MqttConnection]:
    async with MqttConnection.open(stack.mqtt_settings(bundle), subscriptions=subscriptions) as connection:
        async with asyncio.timeout(SECONDS):
            await connection.wait_connected()
        yield connection


async def test_what_a_device_publishes_elsewhere_goes_nowhere(
    stack: Stack, key: str, camera_bundle: Path, stranger: Path, samples: Path
) -> None:
    picture = Picture.read(samples / "eileen_collins.jpg")
    frame = picture.content
    async with connected(stack, stranger) as device, Client.open(stack.http_url(), key) as client:
        for topic in ("clients/front-door", "enroll/forged", "uploads/forged", "clients/front-door/results"):
            await device.publish(topic, frame)
        # What is published after those is behind them: once it is answered, they would be too.
        async with asyncio.timeout(SECONDS), Camera.open(stack.mqtt_settings(camera_bundle), "front-door") as camera:
            await camera.send(picture, "after-the-forged")
            async for answer in camera.answers():
                assert answer.request_id == "after-the-forged"
                break
        for request_id in ("forged",):
            with pytest.raises(ClientError) as caught:
                await client.result(request_id, wait=0)
            assert caught.value.status == 404


async def test_a_device_does_not_read_what_others_are_told(
    stack: Stack, client: Client, stranger: Path, samples: Path
) -> None:
    topics = ["clients/front-door/results", "clients/+/results", "uploads/+/results", "clients/stranger/results", "#"]
    async with connected(stack, stranger, topics) as device:
        picture = Picture.read(samples / "grace_hopper.jpg")
        await client.submit(picture, request_id="acl-told", camera="front-door")
        await answers_to(client, ["acl-told", *await submit(client, [picture], "acl")], SECONDS)
        await client.submit(picture, request_id="acl-own", camera="stranger")
        async with asyncio.timeout(SECONDS):
            async for message in device.messages():
                assert json.loads(message.payload)["request_id"] == "acl-own", message.topic
                break


async def test_nobody_gets_in_without_a_certificate(stack: Stack, camera_bundle: Path) -> None:
    settings = stack.mqtt_settings(camera_bundle).model_copy(update={"mqtt_cert_file": None, "mqtt_key_file": None})
    with pytest.raises(ClientError, match="no connection"):
        async with Camera.open(settings, "front-door"):
            pass
