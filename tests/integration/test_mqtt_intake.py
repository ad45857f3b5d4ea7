"""Frames over real brokers into the real inbox: committed, answered, never lost, never twice."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from facewire.adapters.mqtt.connection import MqttConnection
from facewire.adapters.sqlite.database import Database
from facewire.adapters.sqlite.inbox import Inbox
from facewire.adapters.sqlite.queue import SqliteQueue
from facewire.domain.errors import QueueError
from facewire.domain.messages import MAX_FRAME_BYTES, Frame, RecognizedFaces, sha256
from facewire.domain.names import raw_frame_id
from facewire.domain.ports import Lease
from facewire_detector.intake import Intake, take_from_mqtt
from facewire_detector.topics import FRAMES_TOPIC
from mqtt_brokers import KINDS, Kind, RunningBroker, running_broker

FRAME_BYTES = 75_000


def picture(number: int) -> bytes:
    return b"\xff\xd8\xff" + b"%06d" % number + bytes(FRAME_BYTES)


def payload(request_id: str, content: bytes) -> bytes:
    return json.dumps({"request_id": request_id, "encoded": base64.b64encode(content).decode()}).encode()


@dataclass(frozen=True)
class Bench:
    broker: RunningBroker
    inbox: Inbox
    responses: SqliteQueue

    @asynccontextmanager
    async def taking(self, *, drain_seconds: float = 5.0) -> AsyncIterator[MqttConnection]:
        """Run the intake for as long as the block lasts, then stop it in order."""
        stop = asyncio.Event()
        intake = Intake(self.inbox, self.responses)
        async with (
            MqttConnection.open(self.broker.settings, identifier="detector", subscriptions=[FRAMES_TOPIC]) as frames,
            asyncio.TaskGroup() as tasks,
        ):
            await frames.wait_connected()
            tasks.create_task(take_from_mqtt(frames, intake, stop=stop, drain_seconds=drain_seconds))
            try:
                yield frames
            finally:
                stop.set()

    @asynccontextmanager
    async def camera(self) -> AsyncIterator[MqttConnection]:
        async with MqttConnection.open(self.broker.settings) as camera:
            await camera.wait_connected()
            yield camera

    async def answers(self, count: int) -> list[RecognizedFaces]:
        leases: list[Lease] = []
        while len(leases) < count:
            leases += await self.responses.receive(count, wait=10)
        await self.responses.acknowledge(leases)
        return [RecognizedFaces.from_bytes(lease.body) for lease in leases]

    async def committed(self) -> list[str]:
        leases = await self.inbox.receive(1000, wait=0)
        return [Frame.from_bytes(lease.body).request_id for lease in leases]


@asynccontextmanager
async def open_bench(kind: Kind, folder: Path, *, max_bytes: int = 1024**3) -> AsyncIterator[Bench]:
    async with (
        asyncio.timeout(90),
        running_broker(kind, folder) as broker,
        Database.open(folder / "facewire.db") as database,
    ):
        responses = SqliteQueue(database, "responses")
        inbox = Inbox(database, max_bytes=max_bytes, policy="latest", id_window_seconds=600, responses=responses)
        yield Bench(broker, inbox, responses)


async def test_every_frame_and_every_refusal_gets_where_it_belongs(tmp_path: Path) -> None:
    async with open_bench("embedded", tmp_path) as bench, bench.taking(), bench.camera() as camera:
        await camera.publish("clients/door", payload("good", picture(1)))
        await camera.publish("clients/door", picture(2))
        await camera.publish("clients/door/results", b"not a frame's topic")
        await camera.publish("clients/door", b"nonsense")
        await camera.publish("clients/door", b'{"request_id": "cut", "content": "AAAA')
        await camera.publish("clients/door", payload("large", b"\xff\xd8\xff" + bytes(MAX_FRAME_BYTES)))
        await camera.publish("clients/door", payload("good", picture(3)))
        await camera.publish("clients/door", payload("good", picture(1)))
        answers = {answer.request_id: answer for answer in await bench.answers(4)}
        assert await bench.committed() == ["good", raw_frame_id("door", sha256(picture(2)))]
    codes = {request_id: answer.error.code for request_id, answer in answers.items() if answer.error is not None}
    assert codes == {
        raw_frame_id("door", sha256(b"nonsense")): "bad_request",
        "cut": "bad_request",
        "large": "too_large",
        "good": "id_conflict",
    }
    assert answers["good"].content_sha256 == sha256(picture(3))
    assert {answer.camera for answer in answers.values()} == {"door"}


async def test_at_the_byte_bound_the_oldest_frame_of_the_camera_is_answered_skipped(tmp_path: Path) -> None:
    async with (
        open_bench("embedded", tmp_path, max_bytes=3 * FRAME_BYTES) as bench,
        bench.taking(),
        bench.camera() as camera,
    ):
        for number in range(5):
            await camera.publish("clients/door", payload(f"r{number}", picture(number)))
        skipped = await bench.answers(3)
        assert await bench.committed() == ["r3", "r4"]
    assert [answer.request_id for answer in skipped] == ["r0", "r1", "r2"]
    assert {answer.error.code for answer in skipped if answer.error is not None} == {"skipped"}


@pytest.mark.parametrize("kind", KINDS)
async def test_300_frames_are_committed_once_though_the_intake_starts_anew_twice(kind: Kind, tmp_path: Path) -> None:
    """The intake is stopped in order in the middle, then cut off with commits in flight; its session waits for it."""
    async with open_bench(kind, tmp_path) as bench, bench.camera() as camera, asyncio.TaskGroup() as tasks:
        async with bench.taking():
            publishing = tasks.create_task(_publish(camera, 300))
            await _until_committed(bench, 60)
        async with bench.taking(drain_seconds=0):
            await _until_committed(bench, 150)
        async with bench.taking():
            await publishing
            await _until_committed(bench, 300)
        committed = await bench.committed()
    assert sorted(committed) == sorted(f"r{number}" for number in range(300))


async def _publish(camera: MqttConnection, count: int) -> None:
    for number in range(count):
        request = payload(f"r{number}", picture(number))
        while True:
            try:
                await camera.publish("clients/door", request, timeout=5)
                break
            except QueueError:
                await camera.wait_connected()


async def _until_committed(bench: Bench, count: int) -> None:
    async with asyncio.timeout(30):
        while (await bench.inbox.depth()).waiting < count:  # noqa: ASYNC110 - the queue tells by being asked
            await asyncio.sleep(0.02)
