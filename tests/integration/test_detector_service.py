"""`python -m facewire_detector` between a real broker and queues: one, several, killed, stopped, cut off."""

import asyncio
import base64
import io
import json
import secrets
import socket
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from PIL import Image

from aws_emulator import ministack
from facewire.adapters.aws.sqs.queue import SqsQueue, SqsQueues
from facewire.adapters.mqtt.connection import MqttConnection
from facewire.adapters.sqlite.database import Database
from facewire.adapters.sqlite.inbox import Inbox
from facewire.adapters.sqlite.queue import SqliteQueue
from facewire.domain.messages import DetectedFaces, Frame, now
from facewire.runtime.settings import AwsSettings
from mqtt_brokers import RunningMosquitto, free_port, running_mosquitto, until
from service_processes import Service, answers_of, running_service

MODULE = "facewire_detector"


@dataclass
class Bench:
    """A broker, queues of its own, and a folder for detectors."""

    broker: RunningMosquitto
    environment: Mapping[str, str]
    requests: SqsQueue
    responses: SqsQueue
    folder: Path

    @asynccontextmanager
    async def detector(self, name: str = "one", **more: str) -> AsyncIterator[Service]:
        environment = {**self.environment, **more}
        async with running_service(MODULE, environment, self.folder / f"{name}.log") as service:
            yield service

    @asynccontextmanager
    async def sender(self) -> AsyncIterator[MqttConnection]:
        async with MqttConnection.open(self.broker.settings) as connection:
            await connection.wait_connected()
            yield connection

    def log(self, name: str = "one") -> str:
        return (self.folder / f"{name}.log").read_text()


@pytest.fixture
async def bench(aws_environment: str, tmp_path: Path) -> AsyncIterator[Bench]:
    names = secrets.token_hex(4)
    aws = AwsSettings.read(
        aws_endpoint_url=aws_environment,
        request_queue=f"requests-{names}",
        response_queue=f"responses-{names}",
        aws_create_missing=True,
    )
    (tmp_path / "mosquitto").mkdir()
    async with (
        running_mosquitto(tmp_path / "mosquitto", free_port(), "allow_anonymous true\n") as broker,
        SqsQueues.open(aws) as queues,
    ):
        environment = {
            "FACEWIRE_AWS_ENDPOINT_URL": aws_environment,
            "FACEWIRE_AWS_CREATE_MISSING": "true",
            "FACEWIRE_REQUEST_QUEUE": aws.request_queue,
            "FACEWIRE_RESPONSE_QUEUE": aws.response_queue,
            "FACEWIRE_MQTT_PORT": str(broker.settings.mqtt_port),
            "FACEWIRE_DATA_DIR": str(tmp_path / "data"),
            "FACEWIRE_DETECTOR_THREADS": "1",
        }
        requests, responses = queues.queue(aws.request_queue), queues.queue(aws.response_queue)
        yield Bench(broker, environment, requests, responses, tmp_path)


@pytest.fixture
def portrait(samples: Path) -> bytes:
    return small(samples / "grace_hopper.jpg", 240)


def small(path: Path, pixels: int) -> bytes:
    with Image.open(path) as image:
        image.thumbnail((pixels, pixels))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def faceless(number: int) -> bytes:
    """Return a picture without a face, its own for each number."""
    buffer = io.BytesIO()
    Image.new("RGB", (320, 240), (number % 256, number // 256, 90)).save(buffer, "JPEG")
    return buffer.getvalue()


def payload(request_id: str, content: bytes) -> bytes:
    return json.dumps({"request_id": request_id, "content": base64.b64encode(content).decode()}).encode()


async def detected(requests: SqsQueue, count: int, seconds: float = 30.0) -> dict[str, DetectedFaces]:
    found: dict[str, DetectedFaces] = {}
    async with asyncio.timeout(seconds):
        while len(found) < count:
            leases = await requests.receive(10, wait=1)
            found |= {message.request_id: message for message in (DetectedFaces.from_bytes(x.body) for x in leases)}
            await requests.acknowledge(leases)
    return found


async def test_frames_of_cameras_and_of_the_gateway_become_faces_and_answers(bench: Bench, portrait: bytes) -> None:
    upload = Frame.of(portrait, request_id="up", camera="hall", filename="a.jpg")
    enrolment = Frame.of(portrait, request_id="en", enroll_as="Grace Hopper")
    wrong = Frame.of(portrait, request_id="wrong", enroll_as="Eve")
    async with bench.detector(), bench.sender() as sender:
        await sender.publish("clients/door", payload("cam", portrait))
        await sender.publish("clients/door", payload("empty", faceless(0)))
        await sender.publish("clients/door", b"nonsense")
        await sender.publish("uploads/up", upload.to_bytes())
        await sender.publish("enroll/en", enrolment.to_bytes())
        await sender.publish("uploads/wrong", wrong.to_bytes())
        found = await detected(bench.requests, 3)
        answers = await answers_of(bench.responses, 3)
        await sender.publish("uploads/up", upload.to_bytes())
        (again,) = (await detected(bench.requests, 1)).values()
    assert {name: (len(each.faces), each.camera, each.enroll_as) for name, each in found.items()} == {
        "cam": (1, "door", None),
        "up": (1, "hall", None),
        "en": (1, None, "Grace Hopper"),
    }
    assert again.request_id == "up"
    assert found["up"].received_at == upload.received_at
    codes = {answer.error.code if answer.error else answer.result for answer in answers.values()}
    assert codes == {"No-Face", "bad_request", "enroll_refused"}
    assert answers["wrong"].camera is None


async def test_a_frame_of_a_camera_that_comes_again_is_looked_at_again(bench: Bench, portrait: bytes) -> None:
    """Here nothing is known of its answer, which may be lost: the gateway tells the camera what is kept."""
    async with bench.detector(), bench.sender() as sender:
        await sender.publish("clients/door", payload("r1", portrait))
        (first,) = (await detected(bench.requests, 1)).values()
        await sender.publish("clients/door", payload("r1", portrait))
        (again,) = (await detected(bench.requests, 1)).values()
    assert again.received_at > first.received_at


async def test_what_is_past_the_answer_deadline_is_lost_and_not_looked_at(bench: Bench, portrait: bytes) -> None:
    """The gateway has called it lost; copies that were handed over meanwhile cost no detection either."""
    long_ago = now() - timedelta(seconds=700)
    late = Frame.of(portrait, request_id="late", received_at=long_ago)
    async with bench.sender() as sender:
        async with bench.detector():
            pass  # its session takes what comes while it is away
        for _ in range(3):
            await sender.publish("uploads/late", late.to_bytes())
        await sender.publish("uploads/r1", Frame.of(portrait, request_id="r1").to_bytes())
        async with bench.detector():
            found = await detected(bench.requests, 1)
            answers = await answers_of(bench.responses, 1)
    assert list(found) == ["r1"]
    error = answers["late"].error
    assert error is not None
    assert (error.stage, error.code) == ("detect", "lost")
    assert answers["late"].received_at == long_ago


async def test_a_detector_says_that_it_is_there_until_it_stops(bench: Bench) -> None:
    async with (
        MqttConnection.open(bench.broker.settings, subscriptions=["detectors"]) as gateway,
        asyncio.timeout(60),
        bench.detector() as service,
    ):
        for _ in range(3):
            (await anext(gateway.messages())).acknowledge()
        assert await service.stop() == 0
        assert await silent(gateway)


async def silent(connection: MqttConnection) -> bool:
    """Return whether nothing comes for three times as long as a detector is silent, past what is here already."""
    messages = connection.messages()
    for _ in range(3):
        try:
            async with asyncio.timeout(3):
                (await anext(messages)).acknowledge()
        except TimeoutError:
            return True
    return False


async def test_what_is_not_there_is_named_until_it_comes(bench: Bench, tmp_path: Path) -> None:
    port = free_port()
    log = tmp_path / "emulator.log"
    environment = {
        **bench.environment,
        "FACEWIRE_AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
    }
    service = Service(MODULE, environment, bench.folder / "one.log")
    await bench.broker.kill()
    await service.start()
    try:
        async with asyncio.timeout(30):
            while "mqtt" not in (await service.readiness())[1]:  # noqa: ASYNC110 - told by being asked
                await asyncio.sleep(0.05)
        status, lacks = await service.readiness()
        assert status == 503
        assert lacks["mqtt"] == "no connection to the MQTT broker", "where it is is for the log"
        assert "queue: unreachable" in lacks["queue"] or "no answer" in lacks["queue"]
        assert lacks["inbox"] == "ready"
        await bench.broker.bring_back()
        with ministack(log, port):
            await service.until_ready()
            async with httpx.AsyncClient() as client:
                metrics = (await client.get(f"{service.url}/metrics")).text
        assert 'facewire_queue_messages{queue="inbox",state="waiting"} 0.0' in metrics
        assert await service.stop() == 0
    finally:
        await service.kill()


async def test_two_detectors_share_frames_and_one_killed_loses_none(bench: Bench) -> None:
    """The frames dealt to the session of the dead, and those it had leased, are done by the other one."""
    names = [f"r{number}" for number in range(40)]
    async with (
        bench.detector("one") as one,
        bench.detector("two"),
        bench.sender() as sender,
        asyncio.TaskGroup() as tasks,
    ):
        collecting = tasks.create_task(answers_of(bench.responses, 40))
        for number, name in enumerate(names):
            if number == 20:
                await one.kill()
            topic, body = f"clients/camera{number % 4}", payload(name, faceless(number))
            await sender.publish(topic, body)
        answers = await collecting
        # Written when the session is at its end, a moment after its last frame.
        await until(lambda: "looked after the session of a detector that has gone" in bench.log("two"))
    assert sorted(answers) == sorted(names)
    assert {answer.result for answer in answers.values()} == {"No-Face"}


async def test_a_stop_takes_what_was_dealt_and_leaves_nothing_lent(bench: Bench) -> None:
    """Of two detectors one is stopped in the middle; no frame waits for it to come back."""
    async with bench.detector("one") as one, bench.detector("two"), bench.sender() as sender:
        async with asyncio.TaskGroup() as tasks:
            for number in range(60):
                publishing = sender.publish("clients/door", payload(f"r{number}", faceless(number)))
                tasks.create_task(publishing)
                if number == 30:
                    stopping = tasks.create_task(one.stop())
        began = time.monotonic()
        assert await stopping == 0
        assert time.monotonic() - began < 8
        answers = await answers_of(bench.responses, 60)
    assert len(answers) == 60
    assert '"event": "connected to the MQTT broker"' in bench.log("one")


async def test_the_only_detector_keeps_its_session_over_a_restart(bench: Bench) -> None:
    async with bench.sender() as sender:
        async with bench.detector() as service:
            assert await service.stop() == 0
        for number in range(5):
            await sender.publish("clients/door", payload(f"r{number}", faceless(number)))
        async with bench.detector():
            assert len(await answers_of(bench.responses, 5)) == 5
    assert "Traceback" not in bench.log()


async def test_a_stopped_detector_leaves_its_frames_to_be_leased_at_once(bench: Bench) -> None:
    big = [small_noise(number) for number in range(12)]
    async with bench.detector() as service, bench.sender() as sender:
        for number, content in enumerate(big):
            await sender.publish(f"uploads/r{number}", Frame.of(content, request_id=f"r{number}").to_bytes())
        async with asyncio.timeout(30):
            while await frames_seen(bench) < 12:  # noqa: ASYNC110 - it is another process
                await asyncio.sleep(0.02)
        assert await service.stop() == 0
    assert await frames_seen(bench) == 12
    async with Database.open(bench.folder / "data" / "inbox.db") as database:
        assert (await SqliteQueue(database, "inbox").depth()).leased == 0


async def frames_seen(bench: Bench) -> int:
    """Return how many frames are in the inbox or have left it for a queue; others are still with the broker."""
    async with Database.open(bench.folder / "data" / "inbox.db") as database:
        inbox = await SqliteQueue(database, "inbox").depth()
        answers = await SqliteQueue(database, "answers").depth()
    requests, responses = await bench.requests.depth(), await bench.responses.depth()
    here = inbox.waiting + inbox.leased + answers.waiting + answers.leased
    return here + requests.waiting + responses.waiting


def small_noise(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((1280, 960), 10 + number).convert("RGB").save(buffer, "JPEG")
    return buffer.getvalue()


async def test_answers_of_the_intake_wait_while_the_queue_is_away_and_are_forwarded_then(
    bench: Bench, tmp_path: Path
) -> None:
    port = free_port()
    aws = {"FACEWIRE_AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}
    inbox_file = tmp_path / "data" / "inbox.db"
    frames = [Frame.of(b"\xff\xd8\xff" + bytes(400_000) + bytes([n]), request_id=f"r{n}", camera="a") for n in range(4)]
    async with Database.open(inbox_file) as database:
        answers = SqliteQueue(database, "answers")
        inbox = Inbox(database, max_bytes=1024**2, policy="latest", id_window_seconds=600, responses=answers)
        skipped = [each.request_id for frame in frames for each in await inbox.accept(frame)]
        (poison,) = await inbox.receive(1, wait=0)
        await inbox.dead_letter(poison, "poison")
    assert skipped
    service = Service(MODULE, {**bench.environment, **aws}, bench.folder / "one.log")
    await service.start()
    try:
        await until(lambda: '"call": "send"' in bench.log())
        with ministack(tmp_path / "emulator.log", port):
            settings = AwsSettings.read(
                aws_endpoint_url=f"http://127.0.0.1:{port}",
                response_queue=bench.responses.name,
                aws_create_missing=True,
            )
            async with SqsQueues.open(settings) as queues:
                got = await answers_of(queues.queue(settings.response_queue), 4)
    finally:
        await service.kill()
    codes = {name: answer.error.code for name, answer in got.items() if answer.error is not None}
    given_up = Frame.from_bytes(poison.body).request_id
    undecodable = {name for name, code in codes.items() if code not in {"skipped", "dead_letter"}}
    assert {name for name, code in codes.items() if code == "skipped"} == set(skipped)
    assert codes[given_up] == "dead_letter"
    assert undecodable == {frame.request_id for frame in frames} - {*skipped, given_up}


async def test_a_stop_ends_in_time_though_the_queue_hangs_and_the_broker_is_away(bench: Bench) -> None:
    async with Database.open(bench.folder / "data" / "inbox.db") as database:
        inbox = Inbox(database, max_bytes=1024**2, policy="all", id_window_seconds=600)
        await inbox.accept(Frame.of(faceless(0), request_id="r1"))
    await bench.broker.kill()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        environment = {
            **bench.environment,
            "FACEWIRE_AWS_ENDPOINT_URL": f"http://127.0.0.1:{silent.getsockname()[1]}",
            "FACEWIRE_LOG_LEVEL": "debug",
        }
        service = Service(MODULE, environment, bench.folder / "one.log")
        await service.start()
        try:
            await until(lambda: "faces detected" in bench.log())
            async with asyncio.timeout(10):
                assert await service.stop() == 0
        finally:
            await service.kill()
            await bench.broker.bring_back()
    async with Database.open(bench.folder / "data" / "inbox.db") as database:
        depth = await SqliteQueue(database, "inbox").depth()
    assert (depth.waiting, depth.leased) == (1, 0)


async def test_a_wrong_setting_is_one_line(bench: Bench) -> None:
    service = Service(MODULE, {**bench.environment, "FACEWIRE_DETECTOR_FACTOR": "2"}, bench.folder / "one.log")
    await service.start()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(service.kill)
        assert service.process is not None
        async with asyncio.timeout(20):
            assert await service.process.wait() == 2
    (line,) = bench.log().splitlines()
    assert line.startswith("facewire: settings: wrong_setting: detector_factor: ")
