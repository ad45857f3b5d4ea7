"""Frames of eight people: one of each is enrolled, the others are sent both ways; other people stay unknown."""

import asyncio
import csv
import uuid
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from facewire.domain.messages import UNKNOWN, RecognizedFaces
from facewire.runtime.settings import MqttSettings
from facewire_standalone.child import Child, running_child
from facewire_standalone.commands.camera import Camera
from facewire_standalone.commands.client import Client, Picture
from facewire_standalone.commands.send import wait_for_answer

ANSWER_SECONDS = 60.0
Send = Callable[[Child, list[Picture]], Awaitable[list[RecognizedFaces]]]


@pytest.fixture(scope="module")
def labels(shared_data: Path) -> dict[str, str]:
    """Return who is on which frame."""
    with (shared_data / "frames" / "labels.csv").open() as file:
        return {row["Image"]: row["Results"] for row in csv.DictReader(file)}


@pytest.fixture(scope="module")
def enrolled(tmp_path_factory: pytest.TempPathFactory, shared_data: Path, labels: dict[str, str]) -> Iterator[Child]:
    """Run a system that knows everybody by one frame."""
    with running_child(tmp_path_factory.mktemp("frames") / "data") as child:
        asyncio.run(enroll(child, shared_data / "frames", labels))
        yield child


async def enroll(child: Child, frames: Path, labels: dict[str, str]) -> None:
    async with Client.open(child.http_url) as client:
        for file, person in labels.items():
            if file.endswith("_0.jpg"):
                outcome = await client.enroll(person, Picture.read(frames / file))
                assert outcome is not None
                assert outcome.refused == (), f"{person}: {outcome.refused}"


async def over_http(child: Child, pictures: list[Picture]) -> list[RecognizedFaces]:
    answers = []
    async with Client.open(child.http_url) as client:
        ids = [str(uuid.uuid4()) for _ in pictures]
        for request_id, picture in zip(ids, pictures, strict=True):
            await client.submit(picture, request_id=request_id)
        for request_id in ids:
            answer = await wait_for_answer(client, request_id, ANSWER_SECONDS)
            assert answer is not None
            answers.append(answer)
    return answers


async def over_mqtt(child: Child, pictures: list[Picture]) -> list[RecognizedFaces]:
    settings = MqttSettings.read(mqtt_host=child.mqtt_host, mqtt_port=child.mqtt_port)
    ids = [str(uuid.uuid4()) for _ in pictures]
    answers: dict[str, RecognizedFaces] = {}
    async with asyncio.timeout(ANSWER_SECONDS), Camera.open(settings, "frames") as camera:
        for request_id, picture in zip(ids, pictures, strict=True):
            await camera.send(picture, request_id)
        async for answer in camera.answers():
            answers[answer.request_id] = answer
            if len(answers) == len(pictures):
                break
    return [answers[request_id] for request_id in ids]


@pytest.mark.parametrize("send", [over_http, over_mqtt])
async def test_frames_of_enrolled_people(
    enrolled: Child, shared_data: Path, labels: dict[str, str], send: Send
) -> None:
    probes = {file: person for file, person in labels.items() if not file.endswith("_0.jpg")}
    answers = await send(enrolled, [Picture.read(shared_data / "frames" / file) for file in probes])
    results = dict(zip(probes, (answer.result for answer in answers), strict=True))
    wrong = {file: result for file, result in results.items() if result not in {probes[file], UNKNOWN}}
    right = [file for file, result in results.items() if result == probes[file]]
    assert wrong == {}
    assert len(probes) == 16
    assert len(right) >= 15, results
    for face in (face for answer in answers for face in answer.faces):
        assert face.landmarks is not None
        assert len(face.landmarks) == 5
        assert face.similarity is not None
        assert face.runner_up is not None
        assert face.known == (face.reason is None)


@pytest.mark.parametrize("send", [over_http, over_mqtt])
async def test_strangers_are_unknown_with_a_reason(enrolled: Child, shared_data: Path, send: Send) -> None:
    files = sorted((shared_data / "actors").glob("*/*.jpg"))
    assert len(files) == 4
    for answer in await send(enrolled, [Picture.read(file) for file in files]):
        assert answer.result == UNKNOWN
        assert all(face.person is None and face.reason for face in answer.faces)
