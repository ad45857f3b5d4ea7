import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, cast

import pytest

from facewire.adapters.mqtt.connection import MqttConnection, Received
from facewire.domain.errors import IntakeError, QueueError
from facewire.domain.messages import MAX_FRAME_BYTES, Frame, RecognizedFaces, sha256
from facewire.domain.names import raw_frame_id
from facewire.domain.ports import Queue
from facewire_detector import intake as intake_module
from facewire_detector.intake import Intake, consume_frames, take_from_mqtt

JPEG = b"\xff\xd8\xff\xe0 a picture"


class FakeInbox:
    """Keeps frames in memory; can refuse, push others out, be broken for a while, or wait for a word to go on."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self.again: list[bool] = []
        self.refuse: IntakeError | None = None
        self.pushes_out: list[Frame] = []
        self.broken = 0
        self.gates: dict[str, asyncio.Event] = {}
        self.under_way = 0
        self.most_under_way = 0

    async def accept(self, frame: Frame, *, again: bool = False) -> list[Frame]:
        self.under_way += 1
        self.again.append(again)
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            if (gate := self.gates.get(frame.request_id)) is not None:
                await gate.wait()
            if self.broken:
                self.broken -= 1
                raise QueueError("disk_full", "no space left")
            if self.refuse is not None:
                raise self.refuse
            self.frames.append(frame)
            return self.pushes_out
        finally:
            self.under_way -= 1


class FakeResponses:
    """The `send` of a queue."""

    def __init__(self) -> None:
        self.answers: list[RecognizedFaces] = []

    async def send(self, bodies: Sequence[bytes]) -> None:
        self.answers += [RecognizedFaces.from_bytes(body) for body in bodies]


class FakeConnection:
    """Yields given messages, then those `held` until it unsubscribes, then nothing more; notes what is acknowledged."""

    def __init__(self, *sent: tuple[str, bytes]) -> None:
        self._sent = sent
        self.held: list[tuple[str, bytes]] = []
        self.acknowledged: list[int] = []
        self.answers_unsubscribe = True
        self._left = asyncio.Event()

    async def messages(self) -> AsyncIterator[Received]:
        for number, (topic, payload) in enumerate(self._sent):
            yield self._message(number, topic, payload)
        await self._left.wait()
        for number, (topic, payload) in enumerate(self.held, start=len(self._sent)):
            await asyncio.sleep(0.01)
            yield self._message(number, topic, payload)
        await asyncio.Event().wait()

    async def unsubscribe(self) -> None:
        if not self.answers_unsubscribe:
            await asyncio.Event().wait()
        self._left.set()

    def _message(self, number: int, topic: str, payload: bytes) -> Received:
        return Received(topic, payload, 1, lambda: self.acknowledged.append(number))


class Bench:
    def __init__(self, *sent: tuple[str, bytes]) -> None:
        self.inbox = FakeInbox()
        self.responses = FakeResponses()
        self.intake = Intake(self.inbox, cast("Queue", self.responses))
        self.connection = FakeConnection(*sent)

    async def run(self) -> None:
        """Take frames until all are acknowledged."""
        stop = asyncio.Event()
        expected = len(self.connection._sent)
        async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
            tasks.create_task(self.take(stop))
            await until(lambda: len(self.connection.acknowledged) >= expected)
            stop.set()

    async def take(self, stop: asyncio.Event, drain_seconds: float = 5.0) -> None:
        connection = cast("MqttConnection", self.connection)
        await take_from_mqtt(connection, self.intake, stop=stop, drain_seconds=drain_seconds)


async def until(happened: Callable[[], bool]) -> None:
    """Wait for what `happened` tells; every caller is within an asyncio.timeout."""
    while not happened():  # noqa: ASYNC110 - some of it is told by no event
        await asyncio.sleep(0.001)


def payload(request_id: str = "r1", content: bytes = JPEG, **more: Any) -> bytes:
    return json.dumps({"request_id": request_id, "content": base64.b64encode(content).decode(), **more}).encode()


def frame(request_id: str = "r1", content: bytes = JPEG, camera: str = "door") -> Frame:
    return Frame.of(content, request_id=request_id, camera=camera)


async def test_a_frame_is_committed_and_then_acknowledged() -> None:
    bench = Bench(("clients/door", payload(filename="a.jpg")))
    bench.inbox.gates["r1"] = asyncio.Event()
    stop = asyncio.Event()
    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        tasks.create_task(bench.take(stop))
        await until(lambda: bool(bench.inbox.under_way))
        assert bench.connection.acknowledged == []
        bench.inbox.gates["r1"].set()
        await until(lambda: bool(bench.connection.acknowledged))
        stop.set()
    [kept] = bench.inbox.frames
    assert (kept.request_id, kept.camera, kept.filename, kept.content) == ("r1", "door", "a.jpg", JPEG)
    assert bench.responses.answers == []


async def test_a_raw_picture_gets_the_id_of_camera_and_content() -> None:
    bench = Bench(("clients/door", JPEG))
    await bench.run()
    assert bench.inbox.frames[0].request_id == raw_frame_id("door", sha256(JPEG))


async def test_whatever_comes_may_come_again_to_be_answered() -> None:
    handed_over = Frame.of(JPEG, request_id="r2", camera="gate", enroll_as="Ada")
    bench = Bench(("clients/door", payload()), ("enroll/r2", handed_over.to_bytes()), ("uploads/r3", b"nonsense"))
    await bench.run()
    assert bench.inbox.frames[1] == handed_over
    assert bench.inbox.again == [True, True]
    assert [answer.request_id for answer in bench.responses.answers] == ["r3"]


async def test_large_payloads_are_read_in_a_thread_and_few_at_once() -> None:
    big = JPEG + bytes(intake_module.LARGE_PAYLOAD_BYTES)
    bench = Bench(*[("clients/door", payload(f"r{number}", big)) for number in range(12)])
    bench.inbox.gates = {f"r{number}": asyncio.Event() for number in range(12)}
    stop = asyncio.Event()
    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        tasks.create_task(bench.take(stop))
        await until(lambda: bench.inbox.under_way >= intake_module.MAX_LARGE_COMMITS)
        for gate in bench.inbox.gates.values():
            gate.set()
        await until(lambda: len(bench.connection.acknowledged) >= 12)
        stop.set()
    assert bench.inbox.most_under_way == intake_module.MAX_LARGE_COMMITS
    assert all(kept.content == big for kept in bench.inbox.frames)


async def test_no_more_commits_at_once_than_allowed() -> None:
    bench = Bench(*[("clients/door", payload(f"r{number}")) for number in range(200)])
    await bench.run()
    assert len(bench.inbox.frames) == 200
    assert bench.inbox.most_under_way <= intake_module.MAX_COMMITS


@pytest.mark.parametrize(
    ("body", "code", "request_id"),
    [
        (b"", "empty_body", None),
        (b"hello", "bad_request", None),
        (b'{"content": "AAAA"}', "bad_request", None),
        (b'{"request_id": "r7", "content": "not base64!"}', "bad_request", "r7"),
        (b'{"request_id": "r7"}', "bad_request", "r7"),
        (b'{"request_id": "r7", "content": "AAAA', "bad_request", "r7"),
        (b'{"request_id": "r7", "content": ""}', "empty_body", "r7"),
        (b'{"request_id": "a/b", "content": "AAAA"}', "bad_request", None),
        (b'{"request_id": 7, "content": "AAAA"}', "bad_request", None),
        (b'{"request_id": ["x"], "content": "AAAA"}', "bad_request", None),
        (b'["request_id"]', "bad_request", None),
        (b"[" * 100_000, "bad_request", None),
        (payload("r7", enroll_as="Eve"), "enroll_refused", "r7"),
        (payload("r7", b"\xff\xd8\xff" + bytes(MAX_FRAME_BYTES)), "too_large", "r7"),
    ],
)
async def test_what_is_no_frame_is_answered_and_acknowledged(body: bytes, code: str, request_id: str | None) -> None:
    bench = Bench(("clients/door", body))
    await bench.run()
    assert bench.inbox.frames == []
    [answer] = bench.responses.answers
    assert answer.request_id == (request_id or raw_frame_id("door", sha256(body)))
    assert (answer.status, answer.result, answer.camera, answer.source) == ("failed", "Failed", "door", "edge")
    assert answer.error is not None
    assert (answer.error.stage, answer.error.code) == ("intake", code)
    assert answer.error.detail


@pytest.mark.parametrize("camera", ["", "\t", "x" * 129])
async def test_a_camera_that_may_not_be_called_so_is_answered_too(camera: str) -> None:
    bench = Bench((f"clients/{camera}", payload("r7")))
    await bench.run()
    [answer] = bench.responses.answers
    assert (answer.request_id, answer.camera) == ("r7", camera)
    assert answer.error is not None
    assert answer.error.code == "bad_request"
    assert "camera" in answer.error.detail


async def test_a_conflict_is_told_to_the_camera_with_the_content_it_is_about() -> None:
    bench = Bench(("clients/door", payload("r1", JPEG + b" another")))
    bench.inbox.refuse = IntakeError("id_conflict", "r1 is taken by other content")
    await bench.run()
    [answer] = bench.responses.answers
    assert answer.error is not None
    assert answer.error.code == "id_conflict"
    assert answer.content_sha256 == sha256(JPEG + b" another")
    assert (answer.request_id, answer.camera) == ("r1", "door")


async def test_over_http_the_caller_hears_of_a_conflict_itself() -> None:
    bench = Bench()
    bench.inbox.refuse = IntakeError("id_conflict", "r1 is taken by other content")
    with pytest.raises(IntakeError, match="id_conflict"):
        await bench.intake.accept(frame())
    assert bench.responses.answers == []


async def test_frames_that_had_to_leave_are_not_answered_twice() -> None:
    bench = Bench(("clients/door", payload("r9")))
    bench.inbox.pushes_out = [frame("r1"), frame("r2")]
    await bench.run()
    assert bench.responses.answers == []


async def test_a_commit_is_tried_again_until_the_disk_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake_module, "_FIRST_PAUSE_SECONDS", 0.001)
    bench = Bench(("clients/door", payload("r1")))
    bench.inbox.broken = 3
    await bench.run()
    assert [kept.request_id for kept in bench.inbox.frames] == ["r1"]
    assert bench.connection.acknowledged == [0]


async def test_the_stop_lets_commits_in_hand_end() -> None:
    bench = Bench(("clients/door", payload("r1")))
    bench.inbox.gates["r1"] = asyncio.Event()
    stop = asyncio.Event()
    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        taking = tasks.create_task(bench.take(stop))
        await until(lambda: bool(bench.inbox.under_way))
        stop.set()
        await asyncio.wait({taking}, timeout=0.05)
        assert not taking.done()
        bench.inbox.gates["r1"].set()
    assert bench.connection.acknowledged == [0]


async def test_the_stop_waits_no_longer_than_its_deadline_and_acknowledges_nothing_unsafe() -> None:
    bench = Bench(("clients/door", payload("r1")))
    bench.inbox.gates["r1"] = asyncio.Event()
    stop = asyncio.Event()
    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        tasks.create_task(bench.take(stop, drain_seconds=0.05))
        await until(lambda: bool(bench.inbox.under_way))
        stop.set()
    assert bench.connection.acknowledged == []


async def leave(bench: Bench, drain_seconds: float, *, may: bool = True) -> bool:
    stop = asyncio.Event()
    stop.set()
    connection = cast("MqttConnection", bench.connection)
    async with asyncio.timeout(5):
        return await consume_frames(
            connection, bench.intake, stop=stop, may_leave=lambda: may, drain_seconds=drain_seconds
        )


async def test_whoever_leaves_takes_what_was_dealt_already(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake_module, "QUIET_SECONDS", 0.2)
    bench = Bench(("clients/door", payload("r0")))
    bench.connection.held = [("clients/door", payload(f"r{number}")) for number in range(1, 4)]
    assert await leave(bench, drain_seconds=4)
    assert [kept.request_id for kept in bench.inbox.frames] == ["r0", "r1", "r2", "r3"]
    assert bench.connection.acknowledged == [0, 1, 2, 3]


async def test_leaving_waits_for_commits_in_flight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake_module, "QUIET_SECONDS", 0.01)
    bench = Bench(("clients/door", payload("r1")))
    gate = bench.inbox.gates["r1"] = asyncio.Event()
    leaving = asyncio.create_task(leave(bench, drain_seconds=4))
    await asyncio.wait({leaving}, timeout=0.1)
    assert not leaving.done()
    gate.set()
    assert await leaving
    assert bench.connection.acknowledged == [0]


async def test_whoever_may_not_leave_stays_subscribed() -> None:
    bench = Bench()
    bench.connection.held = [("clients/door", payload("r1"))]
    assert not await leave(bench, drain_seconds=4, may=False)
    assert bench.inbox.frames == []


async def test_leaving_a_broker_that_is_away_ends_at_the_deadline() -> None:
    bench = Bench()
    bench.connection.answers_unsubscribe = False
    assert not await leave(bench, drain_seconds=0.05)


async def test_what_is_a_frame_can_be_said_by_the_caller() -> None:
    def reading(topic: str, payload: bytes) -> Frame:
        if len(payload) > 100:
            raise IntakeError("too_large", "at most 100 bytes are taken here")
        return Frame.of(payload, request_id="r1", camera=topic)

    bench = Bench(("door", JPEG), ("door", JPEG * 20))
    stop = asyncio.Event()
    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        taking = consume_frames(bench.connection, bench.intake, stop=stop, may_leave=lambda: True, reading=reading)
        tasks.create_task(taking)
        await until(lambda: len(bench.connection.acknowledged) == 2)
        stop.set()
    assert [frame.camera for frame in bench.inbox.frames] == ["door"]
    (refused,) = bench.responses.answers
    assert refused.error is not None
    assert refused.error.code == "too_large"
