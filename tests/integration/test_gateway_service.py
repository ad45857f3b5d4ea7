"""`python -m facewire_gateway` on a real mosquitto and an emulator of SQS, with a detector that finds no face."""

import asyncio
import itertools
import json
import sqlite3
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from httpx_sse import aconnect_sse

from aws_emulator import free_port, ministack
from facewire.adapters.aws.sqs.queue import SqsQueue, SqsQueues
from facewire.adapters.mqtt.connection import MqttConnection
from facewire.domain.errors import QueueError
from facewire.domain.messages import DetectedFaces, Frame, RecognizedFaces
from facewire.runtime.background import background
from facewire.runtime.settings import AwsSettings, MqttSettings
from gateway_fakes import picture
from mqtt_brokers import RunningMosquitto, running_mosquitto, until
from service_processes import Service

JPEG = {"Content-Type": "image/jpeg"}
SHARED = ["$share/detectors/uploads/+", "$share/detectors/enroll/+"]


@dataclass
class Detector:
    """Stands for detector and recognizer: notes every frame, and answers it unless told to stay silent."""

    connection: MqttConnection
    responses: SqsQueue
    heard: list[tuple[str, Frame]] = field(default_factory=list)
    silent: bool = False
    there: asyncio.Event = field(default_factory=asyncio.Event)

    async def say_present(self) -> None:
        """Tell the gateways every moment that it is there, while it is."""
        while True:
            await self.there.wait()
            await self.connection.wait_connected()
            with suppress(QueueError):  # the broker is away
                await self.connection.publish("detectors", b"")
            await asyncio.sleep(0.2)

    async def run(self) -> None:
        async for message in self.connection.messages():
            frame = Frame.from_bytes(message.payload)
            self.heard.append((message.topic, frame))
            if not self.silent:
                await self.responses.send([no_face(frame).to_bytes()])
            message.acknowledge()

    async def hears(self, *request_ids: str) -> None:
        """Return once each of the requests has been heard."""
        await until(lambda: {frame.request_id for _, frame in self.heard} >= set(request_ids))


def no_face(frame: Frame) -> RecognizedFaces:
    known: dict[str, Any] = frame.model_dump(include={"request_id", "camera", "received_at", "content_sha256"})
    enrolled = None if frame.enroll_as is None else {"person": frame.enroll_as, "face_id": "f1"}
    return RecognizedFaces.model_validate({**known, "result": "No-Face", "enrolled": enrolled})


@dataclass
class World:
    """What gateways stand on; `gateway` starts one more."""

    folder: Path
    broker: RunningMosquitto
    environment: Mapping[str, str]
    requests: SqsQueue
    responses: SqsQueue
    detector: Detector
    stack: AsyncExitStack

    async def gateway(self, **more: str) -> Service:
        port = free_port()
        environment = {**self.environment, "FACEWIRE_PORT": str(port), **more}
        service = Service("facewire_gateway", environment, self.folder / f"gateway-{port}.log", port)
        await service.start()
        self.stack.push_async_callback(service.kill)
        await service.until_ready()
        return service

    def outbox(self) -> int:
        """Return how many frames the outbox holds."""
        connection = sqlite3.connect(f"file:{self.folder / 'data' / 'outbox.db'}?mode=ro", uri=True)
        try:
            rows = connection.execute("SELECT sum(messages) FROM queue_totals WHERE queue LIKE 'outbox%'").fetchone()
        finally:
            connection.close()
        return int(rows[0] or 0)

    async def empties(self) -> None:
        """Return once the outbox holds nothing."""
        await until(lambda: not self.outbox())


@asynccontextmanager
async def opened(folder: Path, endpoint: str) -> AsyncIterator[World]:
    names = {name: f"{name}-{uuid.uuid4().hex[:8]}" for name in ("requests", "responses")}
    aws = AwsSettings.read(
        aws_endpoint_url=endpoint,
        aws_create_missing=True,
        request_queue=names["requests"],
        response_queue=names["responses"],
    )
    mqtt_port = free_port()
    mqtt = MqttSettings.read(mqtt_port=mqtt_port)
    environment = {
        "FACEWIRE_DATA_DIR": str(folder / "data"),
        "FACEWIRE_AWS_ENDPOINT_URL": endpoint,
        "FACEWIRE_AWS_CREATE_MISSING": "true",
        "FACEWIRE_REQUEST_QUEUE": names["requests"],
        "FACEWIRE_RESPONSE_QUEUE": names["responses"],
        "FACEWIRE_MQTT_PORT": str(mqtt_port),
        "FACEWIRE_HANDOVER_SECONDS": "1",
    }
    async with (
        running_mosquitto(folder, mqtt_port, "allow_anonymous true\n") as broker,
        SqsQueues.open(aws) as queues,
        MqttConnection.open(mqtt, identifier="detector-0", subscriptions=SHARED) as connection,
        AsyncExitStack() as stack,
    ):
        requests, responses = (queues.queue(name) for name in names.values())
        detector = Detector(connection, responses)
        async with asyncio.timeout(10):
            await connection.wait_connected()
        detector.there.set()
        async with (
            background(detector.run(), name="detector"),
            background(detector.say_present(), name="presence"),
        ):
            yield World(folder, broker, environment, requests, responses, detector, stack)


@pytest.fixture
async def world(tmp_path: Path, aws_environment: str) -> AsyncIterator[World]:
    async with opened(tmp_path, aws_environment) as world:
        yield world


@asynccontextmanager
async def client_of(service: Service) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=service.url, timeout=40, trust_env=False) as client:
        yield client


async def post(client: httpx.AsyncClient, request_id: str, **query: str) -> httpx.Response:
    return await client.post(
        "/v1/frames", params=query, content=picture(), headers={**JPEG, "X-Request-Id": request_id}
    )


async def get(client: httpx.AsyncClient, request_id: str) -> dict[str, Any]:
    """Return what is known of the request, waiting for its answer."""
    found: dict[str, Any] = (await client.get(f"/v1/results/{request_id}", params={"wait": 30})).json()
    return found


async def eventually(holds: Callable[[], Awaitable[bool]]) -> None:
    """Wait until another process has come to it."""
    async with asyncio.timeout(30):
        while not await holds():  # noqa: ASYNC110 - of another process
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("store", ["sqlite", "dynamodb"])
async def test_from_upload_to_answer(world: World, store: str) -> None:
    service = await world.gateway(FACEWIRE_STORE=store, FACEWIRE_TABLE=f"facewire-{uuid.uuid4().hex[:8]}")
    async with client_of(service) as client:
        dependencies = (await client.get("/readyz")).json()["dependencies"]
        assert dependencies == {"mqtt": "ready", "queue": "ready", "store": "ready", "outbox": "ready"}
        assert (await post(client, "plain")).status_code == 202
        assert (await post(client, "of-camera", camera="door", wait="30")).status_code == 200
        assert (await get(client, "plain"))["status"] == "done"
        enrolled = await client.post("/v1/people/Ada/faces", content=picture(), headers={**JPEG, "X-Request-Id": "e1"})
        assert enrolled.status_code == 201
        await world.requests.dead_letters().send([DetectedFaces(request_id="crashed").to_bytes()])
        await eventually(lambda: knows(client, "crashed"))
        assert (await get(client, "crashed"))["error"]["code"] == "dead_letter"
        await world.empties()
        metrics = (await client.get("/metrics")).text
    assert sorted(topic for topic, _ in world.detector.heard) == ["enroll/e1", "uploads/of-camera", "uploads/plain"]
    assert dict(world.detector.heard)["enroll/e1"].enroll_as == "Ada"
    assert 'facewire_queue_messages{queue="outbox",state="waiting"} 0.0' in metrics
    assert await asyncio.wait_for(service.stop(), 10) == 0


async def test_any_replica_answers_and_tells_its_listeners_once(world: World) -> None:
    one, two = await world.gateway(), await world.gateway()
    ids = [f"r{number}" for number in range(6)]
    async with client_of(one) as first, client_of(two) as second, asyncio.TaskGroup() as tasks:
        listening = [tasks.create_task(events_of(client, len(ids) + 1)) for client in (first, second)]
        for client in (first, second):
            await eventually(partial(has_listener, client))
        for number, request_id in enumerate(ids):
            accepted = await post((first, second)[number % 2], request_id, **({"camera": "door"} if number % 3 else {}))
            assert accepted.status_code == 202
        answers = [await get((second, first)[number % 2], request_id) for number, request_id in enumerate(ids)]
        assert [found["status"] for found in answers] == ["done"] * len(ids)
        await post(first, "last", wait="30")
        same = await post(second, ids[0])
        conflict = await second.post("/v1/frames", content=picture((9, 9)), headers={**JPEG, "X-Request-Id": ids[0]})
    assert (same.status_code, conflict.status_code) == (202, 409)
    for events in listening:
        assert sorted(events.result()) == sorted([*ids, "last"])


async def events_of(client: httpx.AsyncClient, count: int) -> list[str]:
    heard: list[str] = []
    async with asyncio.timeout(60), aconnect_sse(client, "GET", "/v1/events") as source:
        async for event in source.aiter_sse():
            if event.event == "result":
                heard.append(json.loads(event.data)["request_id"])
            if len(heard) == count:
                break
    return heard


async def knows(client: httpx.AsyncClient, request_id: str) -> bool:
    return (await client.get(f"/v1/results/{request_id}")).is_success


async def lacks_mqtt(service: Service) -> bool:
    return (await service.readiness())[1].get("mqtt", "ready") != "ready"


async def has_listener(client: httpx.AsyncClient) -> bool:
    return "facewire_gateway_event_subscribers 1.0" in (await client.get("/metrics")).text


async def test_a_broker_that_comes_back_gets_what_was_accepted_meanwhile(world: World) -> None:
    service = await world.gateway()
    async with client_of(service) as client:
        await world.broker.kill()
        for number in range(3):
            assert (await post(client, f"r{number}")).status_code == 202
        await eventually(lambda: lacks_mqtt(service))
        await world.broker.bring_back()
        assert [(await get(client, f"r{number}"))["status"] for number in range(3)] == ["done"] * 3


async def test_uploads_wait_in_the_outbox_while_no_detector_is_there(world: World) -> None:
    """The session of an absent detector has 32 MiB at the broker: cameras' frames need them."""
    service = await world.gateway()
    async with client_of(service) as client:
        await post(client, "first", wait="30")
        world.detector.there.clear()
        probes = itertools.count()
        while "no_detector" not in service.log.read_text():
            await post(client, f"probe {next(probes)}", wait="0.2")
        heard = len(world.detector.heard)
        for number in range(20):
            assert (await post(client, f"r{number}")).status_code == 202
        assert world.outbox() >= 20
        assert len(world.detector.heard) == heard
        world.detector.there.set()
        assert [(await get(client, f"r{number}"))["status"] for number in range(20)] == ["done"] * 20
    await world.empties()


async def test_what_has_its_202_survives_a_kill(world: World) -> None:
    """The broker is away, so everything is still in the outbox when the gateway is killed."""
    service = await world.gateway()
    await world.broker.kill()
    async with client_of(service) as client:
        for number in range(5):
            assert (await post(client, f"r{number}")).status_code == 202
    await service.kill()
    await world.broker.bring_back()
    async with client_of(await world.gateway()) as client:
        assert [(await get(client, f"r{number}"))["status"] for number in range(5)] == ["done"] * 5
    await world.empties()


async def test_what_the_queues_have_forgotten_is_handed_over_again(tmp_path: Path, aws_environment: str) -> None:
    assert aws_environment
    port = free_port()
    async with AsyncExitStack() as stack:
        with ministack(tmp_path / "ministack.log", port) as endpoint:
            world = await stack.enter_async_context(opened(tmp_path, endpoint))
            service = await world.gateway()
            client = await stack.enter_async_context(client_of(service))
            # Heard once, and then lost with the queues.
            world.detector.silent = True
            assert (await post(client, "r1")).status_code == 202
            await world.detector.hears("r1")
        world.detector.heard.clear()
        world.detector.silent = False
        with ministack(tmp_path / "ministack.log", port):
            assert (await get(client, "r1"))["status"] == "done"
            assert len(world.detector.heard) >= 1
            await world.empties()
            await stack.aclose()


async def test_what_waits_for_a_recognizer_is_not_handed_over_again(world: World) -> None:
    world.detector.silent = True
    await world.requests.send([DetectedFaces(request_id="waits").to_bytes()])
    async with client_of(await world.gateway()) as client:
        await post(client, "r1")
        await world.detector.hears("r1")
        await eventually(partial(has_postponed, client))
        assert len(world.detector.heard) == 1
        await world.requests.acknowledge(await world.requests.receive(1, wait=5))
        await until(lambda: len(world.detector.heard) > 1)


async def has_postponed(client: httpx.AsyncClient) -> bool:
    metrics = (await client.get("/metrics")).text
    return 'facewire_gateway_handed_over_total{outcome="postponed"}' in metrics


async def test_a_request_without_an_answer_is_lost_at_its_deadline(world: World) -> None:
    world.detector.silent = True
    async with client_of(await world.gateway(FACEWIRE_ANSWER_DEADLINE_SECONDS="2")) as client:
        assert (await post(client, "r1")).status_code == 202
        assert (await get(client, "r1"))["error"]["code"] == "lost"
        await world.empties()
        assert [frame.request_id for _, frame in world.detector.heard] == ["r1"] * len(world.detector.heard)
        assert 2 <= len(world.detector.heard) <= 3


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("FACEWIRE_HOST", "0.0.0.0", "is not loopback, and there are no keys"),  # noqa: S104 - refused
        ("FACEWIRE_OUTBOX_BYTES", "7", "outbox_bytes"),
        ("FACEWIRE_MQTT_CA_FILE", "/no/such/file", "/no/such/file"),
    ],
)
async def test_a_wrong_setting_is_one_line_and_exit_code_2(
    tmp_path: Path, aws_environment: str, setting: str, value: str, said: str
) -> None:
    environment = {"FACEWIRE_DATA_DIR": str(tmp_path / "data"), "FACEWIRE_PORT": str(free_port())}
    environment["FACEWIRE_AWS_ENDPOINT_URL"] = aws_environment
    service = Service("facewire_gateway", {**environment, setting: value}, tmp_path / "log")
    await service.start()
    assert service.process is not None
    async with asyncio.timeout(30):
        assert await service.process.wait() == 2
    [line] = service.log.read_text().splitlines()
    assert line.startswith("facewire: settings: ")
    assert said in line
