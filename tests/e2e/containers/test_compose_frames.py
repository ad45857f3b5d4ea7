"""Frames of enrolled people over HTTP and over MQTT with a device's certificate, with either store."""

import asyncio
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from compose_stack import Labelled, Stack, answers_to, enroll, submit
from facewire.domain.messages import UNKNOWN, RecognizedFaces
from facewire.runtime.settings import MqttSettings
from facewire_standalone.commands.camera import Camera
from facewire_standalone.commands.client import Client, Picture

ANSWER_SECONDS = 60.0


def check(probes: Mapping[Path, str], answers: list[RecognizedFaces]) -> None:
    results = {path.name: answer.result for path, answer in zip(probes, answers, strict=True)}
    wrong = {path.name: results[path.name] for path in probes if results[path.name] not in {probes[path], UNKNOWN}}
    right = [path for path in probes if results[path.name] == probes[path]]
    assert wrong == {}
    assert len(right) >= min(len(probes), 15), results
    assert all(answer.source == "cloud" for answer in answers)


async def over_http(client: Client, probes: Mapping[Path, str]) -> list[RecognizedFaces]:
    ids = await submit(client, [Picture.read(path) for path in probes], "http")
    return await answers_to(client, ids, ANSWER_SECONDS)


async def over_mqtt(settings: MqttSettings, name: str, probes: Mapping[Path, str]) -> list[RecognizedFaces]:
    ids = {path: f"mqtt-{uuid.uuid4()}" for path in probes}
    answers: dict[str, RecognizedFaces] = {}
    async with (
        asyncio.timeout(ANSWER_SECONDS),
        Camera.open(settings, name) as camera,
        asyncio.TaskGroup() as tasks,
    ):
        for path, request_id in ids.items():
            tasks.create_task(camera.send(Picture.read(path), request_id))
        async for answer in camera.answers():
            answers[answer.request_id] = answer
            if answers.keys() >= set(ids.values()):
                break
    return [answers[request_id] for request_id in ids.values()]


async def test_frames_over_http(client: Client, enrolled: Labelled) -> None:
    check(enrolled.probes, await over_http(client, enrolled.probes))


async def test_frames_over_mqtt_with_a_certificate(stack: Stack, camera_bundle: Path, enrolled: Labelled) -> None:
    check(enrolled.probes, await over_mqtt(stack.mqtt_settings(camera_bundle), camera_bundle.stem, enrolled.probes))


async def test_frames_through_the_plain_broker_of_the_profile_dev(stack: Stack, enrolled: Labelled) -> None:
    await asyncio.to_thread(stack.up, "mosquitto-dev")
    settings = MqttSettings.read(mqtt_host="127.0.0.1", mqtt_port=stack.dev_port)
    check(enrolled.probes, await over_mqtt(settings, "bench", enrolled.probes))


@pytest.fixture
def dynamodb(stack: Stack, key: str, labelled: Labelled) -> Iterator[Labelled]:
    """Keep results and gallery in DynamoDB, and enrol everybody there."""
    stack.up(FACEWIRE_STORE="dynamodb")
    asyncio.run(enroll(stack, key, labelled))
    yield labelled
    stack.up()


async def test_frames_with_dynamodb(stack: Stack, key: str, dynamodb: Labelled, camera_bundle: Path) -> None:
    async with Client.open(stack.http_url(), key) as client:
        check(dynamodb.probes, await over_http(client, dynamodb.probes))
    check(dynamodb.probes, await over_mqtt(stack.mqtt_settings(camera_bundle), camera_bundle.stem, dynamodb.probes))
