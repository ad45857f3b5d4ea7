"""`python -m facewire_recognizer` behind a detector: names, a gallery that several share, a kill, a stop."""

import asyncio
import contextlib
import io
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from facewire.adapters.aws.sqs.queue import SqsQueue, SqsQueues
from facewire.adapters.mqtt.connection import MqttConnection
from facewire.domain.messages import DetectedFaces, Frame
from facewire.runtime.settings import AwsSettings
from facewire.stages.detect import FaceDetector
from facewire.vision.models import load_detector
from mqtt_brokers import free_port, running_mosquitto
from pipeline_fakes import ENROLL_KEY, proven
from service_processes import Service, answers_of, running_service

MODULE = "facewire_recognizer"


@dataclass
class Bench:
    """Queues of its own, and a folder for recognizers."""

    environment: Mapping[str, str]
    requests: SqsQueue
    responses: SqsQueue
    folder: Path

    @asynccontextmanager
    async def recognizer(self, name: str = "one", **more: str) -> AsyncIterator[Service]:
        async with running_service(MODULE, {**self.environment, **more}, self.folder / f"{name}.log") as service:
            yield service


@pytest.fixture
async def bench(aws_environment: str, tmp_path: Path) -> AsyncIterator[Bench]:
    names = secrets.token_hex(4)
    aws = AwsSettings.read(
        aws_endpoint_url=aws_environment,
        request_queue=f"requests-{names}",
        response_queue=f"responses-{names}",
        aws_create_missing=True,
    )
    environment = {
        "FACEWIRE_AWS_ENDPOINT_URL": aws_environment,
        "FACEWIRE_AWS_CREATE_MISSING": "true",
        "FACEWIRE_REQUEST_QUEUE": aws.request_queue,
        "FACEWIRE_RESPONSE_QUEUE": aws.response_queue,
        "FACEWIRE_DATA_DIR": str(tmp_path / "gallery"),
        "FACEWIRE_GALLERY_POLL_SECONDS": "0.2",
        "FACEWIRE_TABLE": f"table-{names}",
    }
    async with SqsQueues.open(aws) as queues:
        yield Bench(environment, queues.queue(aws.request_queue), queues.queue(aws.response_queue), tmp_path)


@pytest.fixture(scope="module")
def hopper(samples: Path) -> DetectedFaces:
    """Return what a detector sends of a portrait."""
    frame = Frame.of((samples / "grace_hopper.jpg").read_bytes(), request_id="hopper", camera="door")
    return FaceDetector(load_detector(min_face_size=60))(frame)


def request(hopper: DetectedFaces, request_id: str, enroll_as: str | None = None) -> bytes:
    message = hopper.model_copy(update={"request_id": request_id, "enroll_as": enroll_as})
    return message.to_bytes() if enroll_as is None else proven(message).to_bytes()


async def test_a_picture_published_by_a_camera_is_named(bench: Bench, samples: Path) -> None:
    """Camera, broker, detector, request queue, recognizer, response queue."""
    (bench.folder / "mosquitto").mkdir()
    async with running_mosquitto(bench.folder / "mosquitto", free_port(), "allow_anonymous true\n") as broker:
        settings = {
            **bench.environment,
            "FACEWIRE_MQTT_PORT": str(broker.settings.mqtt_port),
            "FACEWIRE_DATA_DIR": str(bench.folder / "detector"),
        }
        async with (
            running_service("facewire_detector", settings, bench.folder / "detector.log"),
            bench.recognizer(FACEWIRE_ENROLL_KEY=ENROLL_KEY.decode()),
            MqttConnection.open(broker.settings) as sender,
        ):
            await sender.wait_connected()
            portrait = (samples / "grace_hopper.jpg").read_bytes()
            enrolment = Frame.of(portrait, request_id="en", enroll_as="Grace Hopper")
            await sender.publish("enroll/en", proven(enrolment).to_bytes())
            (enrolled,) = (await answers_of(bench.responses, 1)).values()
            await sender.publish("clients/door", smaller(portrait))
            await sender.publish("clients/door", (samples / "eileen_collins.jpg").read_bytes())
            await sender.publish("clients/door", (samples / "cat.jpg").read_bytes())
            answers = await answers_of(bench.responses, 3)
    assert enrolled.enrolled is not None
    assert enrolled.enrolled.face_id is not None
    assert sorted(answer.result for answer in answers.values()) == ["Grace Hopper", "No-Face", "Unknown"]
    assert {answer.camera for answer in answers.values()} == {"door"}


def smaller(picture: bytes) -> bytes:
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(picture)) as image:
        image.resize((image.width * 3 // 4, image.height * 3 // 4)).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.mark.parametrize("store", ["sqlite", "dynamodb"])
async def test_recognizers_share_a_gallery(bench: Bench, hopper: DetectedFaces, store: str) -> None:
    """Whoever takes the message has heard of the new face, by the promise within two seconds."""
    more = {"FACEWIRE_STORE": store, "FACEWIRE_ENROLL_KEY": ENROLL_KEY.decode()}
    async with bench.recognizer("one", **more), bench.recognizer("two", **more):
        await bench.requests.send([request(hopper, "en", "Grace Hopper")])
        await answers_of(bench.responses, 1)
        async with asyncio.timeout(10):
            for attempt in range(100):
                ids = [f"r{attempt}-{number}" for number in range(8)]
                await bench.requests.send([request(hopper, request_id) for request_id in ids])
                answers = await answers_of(bench.responses, 8)
                if {answer.result for answer in answers.values()} == {"Grace Hopper"}:
                    break
    assert {answer.gallery_version for answer in answers.values()} == {1}


async def test_a_gateways_enrolment_is_obeyed_and_that_of_others_is_not(bench: Bench, samples: Path) -> None:
    """Gateway and recognizer share a folder, and make the key there; the detector has another folder, and no key."""
    (bench.folder / "mosquitto").mkdir()
    async with running_mosquitto(bench.folder / "mosquitto", free_port(), "allow_anonymous true\n") as broker:
        shared = {**bench.environment, "FACEWIRE_MQTT_PORT": str(broker.settings.mqtt_port)}
        port = free_port()
        gateway = Service("facewire_gateway", shared | {"FACEWIRE_PORT": str(port)}, bench.folder / "g.log", port)
        detector = shared | {"FACEWIRE_DATA_DIR": str(bench.folder / "detector")}
        async with (
            running_service("facewire_detector", detector, bench.folder / "d.log"),
            bench.recognizer(),
            MqttConnection.open(broker.settings) as stranger,
            httpx.AsyncClient(base_url=gateway.url, timeout=40, trust_env=False) as client,
        ):
            await gateway.start()
            try:
                await gateway.until_ready()
                portrait = (samples / "grace_hopper.jpg").read_bytes()
                enrolled = await client.post("/v1/people/Grace%20Hopper/faces", content=portrait)
                other = (samples / "eileen_collins.jpg").read_bytes()
                forged = Frame.of(other, request_id="forged", enroll_as="Eve")
                await stranger.publish("enroll/forged", forged.to_bytes())
                refused = await answer_to("forged", client)
                people = (await client.get("/v1/people")).json()["people"]
            finally:
                await gateway.kill()
    assert enrolled.status_code == 201, enrolled.text
    assert (refused["status"], refused["error"]["code"]) == ("failed", "enroll_refused")
    assert [person["person"] for person in people] == ["Grace Hopper"]
    assert {file.parent.name for file in bench.folder.rglob("enroll.key")} == {"gallery"}


async def test_without_a_key_it_names_faces_and_enrols_nobody(bench: Bench, hopper: DetectedFaces) -> None:
    """A container that may write nowhere, as those of an earlier version of the throughput tier."""
    async with bench.recognizer(FACEWIRE_STORE="dynamodb", FACEWIRE_DATA_DIR="/proc/nowhere"):
        await bench.requests.send([request(hopper, "en", "Grace Hopper"), request(hopper, "r1")])
        answers = await answers_of(bench.responses, 2)
    assert answers["en"].error is not None
    assert answers["en"].error.code == "enroll_refused"
    assert "FACEWIRE_ENROLL_KEY" in answers["en"].error.detail
    assert answers["r1"].result == "Unknown"
    assert "enrolments are refused: there is no key" in (bench.folder / "one.log").read_text()


async def answer_to(request_id: str, client: httpx.AsyncClient) -> dict[str, Any]:
    """Return the answer to what another sent: the gateway does not know of it before."""
    async with asyncio.timeout(30):
        while (response := await client.get(f"/v1/results/{request_id}")).status_code == 404:  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.05)
    answer: dict[str, Any] = response.json()
    return answer


async def test_one_of_two_killed_loses_no_message(bench: Bench, hopper: DetectedFaces) -> None:
    ids = [f"r{number}" for number in range(40)]
    async with bench.recognizer("one") as one, bench.recognizer("two"):
        for start in range(0, 40, 10):
            await bench.requests.send([request(hopper, request_id) for request_id in ids[start : start + 10]])
            if start == 10:
                await one.kill()
        answers = await answers_of(bench.responses, 40)
    assert sorted(answers) == sorted(ids)


async def test_a_stop_under_load_leaves_nothing_in_flight(bench: Bench, hopper: DetectedFaces) -> None:
    sent = 60
    async with bench.recognizer() as service:
        for start in range(0, sent, 10):
            await bench.requests.send([request(hopper, f"r{start + number}") for number in range(10)])
        async with asyncio.timeout(8):
            assert await service.stop() == 0
    requests, responses = await bench.requests.depth(), await bench.responses.depth()
    assert requests.leased == 0
    assert requests.waiting + responses.waiting >= sent
    assert (requests.dead, responses.dead) == (0, 0)


async def test_it_is_ready_with_model_queue_and_gallery(bench: Bench) -> None:
    async with bench.recognizer() as service:
        assert await service.readiness() == (200, {"queue": "ready", "gallery": "ready"})
        called = [sys.executable, "-m", "facewire.runtime.healthcheck", f"{service.url}/readyz"]
        checked = await asyncio.to_thread(subprocess.run, called, capture_output=True, check=False)
        assert checked.returncode == 0
        assert await service.stop() == 0


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [("EMBEDDER", "none", "facewire: model: "), ("DATA_DIR", "/proc/nowhere", "facewire: settings: data_dir: ")],
)
async def test_what_it_cannot_start_with_is_one_line(bench: Bench, setting: str, value: str, said: str) -> None:
    log = bench.folder / "one.log"
    environment = {**bench.environment, "FACEWIRE_LOG_LEVEL": "error", f"FACEWIRE_{setting}": value}
    service = Service(MODULE, environment, log)
    await service.start()
    try:
        assert service.process is not None
        async with asyncio.timeout(20):
            assert await service.process.wait() == 2
    finally:
        with contextlib.suppress(ProcessLookupError):
            await service.kill()
    (line,) = log.read_text().splitlines()
    assert line.startswith(said)


@pytest.mark.parametrize(
    ("module", "without"),
    [
        ("facewire_recognizer", {"cv2", "aiomqtt", "fastapi", "uvicorn", "typer", "iotcore"}),
        ("facewire_detector", {"fastapi", "uvicorn", "typer", "iotcore"}),
    ],
)
def test_a_service_loads_nothing_of_the_others(module: str, without: set[str]) -> None:
    program = f"import sys, {module}.__main__; print(sorted({without!r} & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert loaded.stdout == "[]\n"
