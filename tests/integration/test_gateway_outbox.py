"""The gateway's outbox over SQLite: what has its 202 is on the disk, pending, and there once."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from facewire.adapters.aws.sqs.queue import SqsDepth
from facewire.adapters.mqtt.connection import Received
from facewire.adapters.sqlite.database import Database
from facewire.adapters.sqlite.inbox import Inbox
from facewire.adapters.sqlite.results import SqliteResultStore
from facewire.domain.errors import IntakeError, StoreError
from facewire.domain.messages import Failure, Frame, RecognizedFaces, now
from facewire.domain.ports import Result
from facewire_gateway.delivery.backlog import Backlog, Detectors
from facewire_gateway.delivery.handover import HandOver
from facewire_gateway.delivery.outbox import Outbox
from facewire_gateway.service import GatewayServiceSettings
from gateway_fakes import until

MIB = 1024 * 1024


class Bench:
    def __init__(self, outbox: Outbox, results: SqliteResultStore) -> None:
        self.outbox = outbox
        self.results = results

    async def held(self) -> list[str]:
        leases = await self.outbox.frames.receive(100, wait=0)
        await self.outbox.frames.release(leases, count_attempt=False)
        return [Frame.from_bytes(lease.body).request_id for lease in leases]

    async def status(self, request_id: str) -> str | None:
        result = await self.results.get(request_id)
        return None if result is None else result.status


@asynccontextmanager
async def opened(folder: Path, *, max_bytes: int = MIB, mqtt_max_bytes: int = MIB) -> AsyncIterator[Bench]:
    async with (
        Database.open(folder / "outbox.db") as database,
        Database.open(folder / "facewire.db") as kept,
    ):
        results = SqliteResultStore(kept)
        frames = Inbox(database, "outbox", max_bytes=max_bytes, policy="all", id_window_seconds=600)
        yield Bench(Outbox(frames, results, mqtt_max_bytes=mqtt_max_bytes, id_window_seconds=600), results)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with opened(tmp_path) as bench:
        yield bench


def frame(request_id: str, content: bytes = b"picture", **fields: Any) -> Frame:
    return Frame.of(content, request_id=request_id, **fields)


def answer(request: Frame, **fields: Any) -> RecognizedFaces:
    return RecognizedFaces.model_validate(
        {
            "request_id": request.request_id,
            "result": "No-Face",
            "received_at": request.received_at,
            "content_sha256": request.content_sha256,
            **fields,
        }
    )


def failure(request: Frame, code: str) -> RecognizedFaces:
    error = Failure(stage="gateway", code=code, detail="no answer")
    return answer(request, status="failed", result="Failed", error=error)


async def test_an_accepted_frame_is_held_and_pending_over_a_restart(tmp_path: Path) -> None:
    sent = frame("r1", enroll_as="Ada", filename="a.jpg")
    async with opened(tmp_path) as bench:
        await bench.outbox.accept(sent)
    async with opened(tmp_path) as bench:
        assert await bench.status("r1") == "pending"
        (lease,) = await bench.outbox.frames.receive(1, wait=0)
        assert Frame.from_bytes(lease.body) == sent


async def test_the_same_upload_again_is_the_same_request(bench: Bench) -> None:
    await bench.outbox.accept(frame("r1"))
    await bench.outbox.accept(frame("r1"))
    assert await bench.held() == ["r1"]
    assert await bench.status("r1") == "pending"


async def test_an_id_that_stands_for_another_upload_is_a_conflict(bench: Bench) -> None:
    await bench.outbox.accept(frame("r1"))
    for other in (frame("r1", b"other"), frame("r1", enroll_as="Ada")):
        with pytest.raises(IntakeError, match="id_conflict"):
            await bench.outbox.accept(other)
    assert await bench.held() == ["r1"]


async def test_an_id_that_stands_for_a_frame_of_a_camera_is_a_conflict_within_the_window(bench: Bench) -> None:
    recent, earlier = frame("recent", camera="door"), frame("earlier", received_at=now() - timedelta(seconds=700))
    await bench.results.keep([answer(recent, camera="door"), answer(earlier, camera="door")])
    with pytest.raises(IntakeError, match="id_conflict"):
        await bench.outbox.accept(frame("recent", b"other"))
    await bench.outbox.accept(frame("earlier", b"other"))
    assert (await bench.status("recent"), await bench.status("earlier")) == ("done", "pending")


async def test_what_has_its_answer_is_not_handed_over_anew(bench: Bench) -> None:
    sent = frame("r1")
    await bench.outbox.accept(sent)
    await bench.results.keep([answer(sent)])
    await bench.outbox.forget([("r1", sent.received_at)])
    await bench.outbox.accept(frame("r1"))
    assert await bench.held() == []
    assert await bench.status("r1") == "done"


@pytest.mark.parametrize(("code", "taken"), [("lost", True), ("overloaded", True), ("not_an_image", False)])
async def test_what_failed_for_a_reason_of_the_moment_may_be_sent_again(bench: Bench, code: str, taken: bool) -> None:
    sent = frame("r1")
    await bench.outbox.accept(sent)
    await bench.results.keep([failure(sent, code)])
    await bench.outbox.forget([("r1", sent.received_at)])
    await bench.outbox.accept(frame("r1"))
    assert await bench.held() == ["r1"] * taken
    assert await bench.status("r1") == ("pending" if taken else "failed")


async def test_what_is_sent_again_before_the_outbox_has_let_go_of_it_stays(bench: Bench) -> None:
    """Whoever waits for the answer hears of it before the outbox does."""
    earlier, later = frame("r1"), frame("r1")
    await bench.outbox.accept(earlier)
    (lease,) = await bench.outbox.frames.receive(1, wait=0)
    await bench.results.keep([failure(earlier, "overloaded")])
    await bench.outbox.accept(later)
    await bench.outbox.frames.acknowledge([lease])
    await bench.outbox.forget([("r1", earlier.received_at)])
    assert await bench.held() == ["r1"]
    assert await bench.status("r1") == "pending"
    await bench.outbox.forget([("r1", later.received_at)])
    assert await bench.held() == []


async def test_what_the_broker_would_not_take_is_refused_with_the_limit(tmp_path: Path) -> None:
    async with opened(tmp_path, mqtt_max_bytes=131_072) as bench:
        await bench.outbox.accept(frame("small", bytes(130_000)))
        with pytest.raises(IntakeError, match=r"131,072 \(FACEWIRE_MQTT_MAX_BYTES\)") as refused:
            await bench.outbox.accept(frame("large", bytes(131_072)))
        assert refused.value.code == "too_large"
        assert await bench.held() == ["small"]
        assert await bench.status("large") is None


async def test_a_full_outbox_refuses_and_has_room_again_once_answers_are_there(tmp_path: Path) -> None:
    async with opened(tmp_path, max_bytes=3000) as bench:
        held = frame("a", bytes(2000))
        await bench.outbox.accept(held)
        with pytest.raises(IntakeError, match="overloaded"):
            await bench.outbox.accept(frame("b", bytes(2000)))
        assert await bench.status("b") is None
        await bench.outbox.forget([("a", held.received_at)])
        await bench.outbox.accept(frame("b", bytes(2000)))
        assert await bench.held() == ["b"]


async def test_what_is_committed_has_its_202_though_the_store_fails_then_and_the_hand_over_notes_it(
    tmp_path: Path,
) -> None:
    async with opened_with(tmp_path, _Unwritable) as bench:
        await bench.outbox.accept(frame("r1"))
        assert await bench.held() == ["r1"]
        assert await bench.status("r1") is None
        broker = FakeBroker()
        async with handing_over(bench, broker):
            await until(lambda: broker.topics)
        assert await bench.status("r1") == "pending"


async def test_without_the_store_nothing_is_committed_and_nobody_gets_a_202(tmp_path: Path) -> None:
    async with Database.open(tmp_path / "outbox.db") as database:
        async with Database.open(tmp_path / "facewire.db") as kept:
            results = SqliteResultStore(kept)
        frames = Inbox(database, "outbox", max_bytes=MIB, policy="all", id_window_seconds=600)
        bench = Bench(Outbox(frames, results, mqtt_max_bytes=MIB, id_window_seconds=600), results)
        with pytest.raises(StoreError):
            await bench.outbox.accept(frame("r1"))
        assert await bench.held() == []


@pytest.mark.parametrize("code", ["lost", "not_an_image"])
async def test_an_upload_is_handed_over_though_its_id_has_an_earlier_answer_and_it_is_not_noted_yet(
    tmp_path: Path, code: str
) -> None:
    """The hand-over wakes with the commit; the request is noted as pending a moment later."""
    async with opened_with(tmp_path, _Slow) as bench:
        earlier = frame("r1", received_at=now() - timedelta(seconds=700))
        await bench.results.keep([failure(earlier, code)])
        broker = FakeBroker()
        async with handing_over(bench, broker):
            await bench.outbox.accept(frame("r1"))
            await until(lambda: broker.topics)
        assert broker.topics == ["uploads/r1"]
        assert await bench.held() == []
        assert (await bench.outbox.depth()).waiting == 1, "until its answer is there"
        assert await bench.status("r1") == "pending"


async def test_a_picture_sent_again_at_once_after_it_was_lost_is_handed_over(tmp_path: Path) -> None:
    async with opened_with(tmp_path, _Slow) as bench:
        earlier = frame("r1", received_at=now() - timedelta(seconds=1))
        await bench.results.keep([failure(earlier, "lost")])
        broker = FakeBroker()
        async with handing_over(bench, broker):
            await bench.outbox.accept(frame("r1"))
            await until(lambda: broker.topics)
        assert await bench.status("r1") == "pending"


async def test_forgetting_what_the_disk_does_not_let_go_waits_for_the_hand_over(tmp_path: Path) -> None:
    sent = frame("r1")
    async with opened(tmp_path) as bench:
        await bench.outbox.accept(sent)
    await bench.outbox.forget([("r1", sent.received_at)])
    async with opened(tmp_path) as bench:
        assert await bench.held() == ["r1"]


class _Unwritable(SqliteResultStore):
    """Fails once, at what comes first: an upload that is noted."""

    faults = 1

    async def expect(self, frame: Frame) -> None:
        if self.faults:
            self.faults -= 1
            raise StoreError("disk_full", "no space left")
        await super().expect(frame)


class _Slow(SqliteResultStore):
    """Notes the first request only once somebody has looked whether it is answered, as the hand-over does."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self._looks = 0
        self._looked = asyncio.Event()
        self._first = True

    async def get(self, request_id: str) -> Result | None:
        result = await super().get(request_id)
        self._looks += 1
        if self._looks > 1:
            self._looked.set()
        return result

    async def expect(self, frame: Frame) -> None:
        first, self._first = self._first, False
        if first:
            await self._looked.wait()
        await super().expect(frame)


@dataclass
class FakeBroker:
    topics: list[str] = field(default_factory=list)

    async def publish(self, topic: str, payload: bytes) -> None:
        assert payload
        self.topics.append(topic)


@asynccontextmanager
async def opened_with(folder: Path, make: Callable[[Database], SqliteResultStore]) -> AsyncIterator[Bench]:
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(Database.open(folder / "outbox.db"))
        kept = await stack.enter_async_context(Database.open(folder / "facewire.db"))
        frames = Inbox(database, "outbox", max_bytes=MIB, policy="all", id_window_seconds=600)
        results = make(kept)
        yield Bench(Outbox(frames, results, mqtt_max_bytes=MIB, id_window_seconds=600), results)


@asynccontextmanager
async def handing_over(bench: Bench, broker: FakeBroker) -> AsyncIterator[None]:
    """Hand over while the block runs, to a detector that is there."""

    async def depth() -> SqsDepth:
        return SqsDepth(0, 0, 0, 0)

    async def present() -> AsyncIterator[Received]:
        yield Received("detectors", b"", 1, lambda: None)

    detectors, stop = Detectors(present_seconds=60), asyncio.Event()
    await detectors.listen(present())
    work = HandOver(
        bench.outbox.frames, bench.results, broker, Backlog(depth), GatewayServiceSettings.read(), detectors
    )
    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        tasks.create_task(work.run(stop), name="hand-over")
        try:
            yield
        finally:
            stop.set()
