"""From the outbox to the broker: what is handed over, when again, and when no more."""

import asyncio
import sqlite3
import tracemalloc
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from facewire.adapters.aws.sqs.queue import SqsDepth
from facewire.adapters.mqtt.connection import Received
from facewire.adapters.sqlite.database import Database
from facewire.adapters.sqlite.inbox import Inbox
from facewire.domain.errors import QueueError
from facewire.domain.messages import Frame, now
from facewire.domain.ports import MAX_RECEIVES, Lease
from facewire.domain.timing import SettledClock
from facewire.runtime.background import background
from facewire.runtime.backoff import Backoff
from facewire.work.consumer import Policy
from facewire_gateway.delivery import backlog, handover
from facewire_gateway.delivery.backlog import Backlog, Detectors
from facewire_gateway.delivery.handover import HAND_OVER, IN_FLIGHT, HandOver, next_handover
from facewire_gateway.service import GatewayServiceSettings
from gateway_fakes import FakeQueue, FaultyResults, answer, picture, until

SETTINGS = GatewayServiceSettings.read()


@dataclass
class FakeOutbox(FakeQueue):
    """A queue that notes for how many seconds frames are given back, and lends none of them again."""

    delays: list[int] = field(default_factory=list)
    used: int = 0

    async def release(self, leases: Sequence[Lease], *, delay: float = 0, count_attempt: bool = True) -> None:
        self.used += count_attempt
        self.delays += [round(delay)] * len(leases)


@dataclass
class FakeBroker:
    faults: int = 0
    sent: list[tuple[str, bytes]] = field(default_factory=list)
    open: asyncio.Event = field(default_factory=asyncio.Event)
    under_way: int = 0

    async def publish(self, topic: str, payload: bytes) -> None:
        if self.faults:
            self.faults -= 1
            raise QueueError("mqtt_not_connected", "no connection")
        self.under_way += 1
        await self.open.wait()
        self.under_way -= 1
        self.sent.append((topic, payload))


@dataclass
class FakeDetector:
    """Says that it is there, as soon as it is and then every moment."""

    there: asyncio.Event = field(default_factory=asyncio.Event)

    async def messages(self) -> AsyncIterator[Received]:
        while True:
            await self.there.wait()
            yield Received("detectors", b"", 1, lambda: None)
            await asyncio.sleep(0.001)


class AskedDetectors(Detectors):
    """Notes what it has answered."""

    def __init__(self, *, present_seconds: float) -> None:
        super().__init__(present_seconds=present_seconds)
        self.answers: list[bool] = []

    def there(self) -> bool:
        self.answers.append(super().there())
        return self.answers[-1]


#: The policy of the product, which waits less.
QUICK = replace(HAND_OVER, backoff=Backoff(first=0.001, longest=0.01))


@dataclass
class Bench:
    outbox: FakeOutbox = field(default_factory=FakeOutbox)
    results: FaultyResults = field(default_factory=FaultyResults)
    broker: FakeBroker = field(default_factory=FakeBroker)
    detector: FakeDetector = field(default_factory=FakeDetector)
    detectors: Detectors = field(default_factory=Detectors)
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    age: float = 0
    waiting: int = 0
    looks: int = 0
    unreachable: bool = False
    policy: Policy = QUICK

    async def accept(self, request_id: str, *, receives: int = 1, **fields: Any) -> Frame:
        """Put a frame into the outbox, to be lent for the `receives`th time."""
        frame = Frame.of(picture(), request_id=request_id, **fields)
        await self.results.expect(frame)
        self.outbox.waiting.append(Lease(request_id, frame.to_bytes(), receives))
        self.outbox.arrived.set()
        return frame

    async def depth(self) -> SqsDepth:
        self.looks += 1
        if self.unreachable:
            raise QueueError("unreachable", "no answer")
        return SqsDepth(self.waiting, 7, 0, 0)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        def clock() -> datetime:
            return now() + timedelta(seconds=self.age)

        settled = SettledClock(clock=clock)
        backlog = Backlog(self.depth)
        work = HandOver(
            self.outbox,
            self.results,
            self.broker,
            backlog,
            SETTINGS,
            self.detectors,
            clock=settled,
            policy=self.policy,
        )
        async with asyncio.timeout(5), self.hearing(), asyncio.TaskGroup() as tasks:
            tasks.create_task(work.run(self.stop))
            yield
            self.stop.set()

    def hearing(self) -> AbstractAsyncContextManager[None]:
        return background(self.detectors.listen(self.detector.messages()), name="detectors")


@pytest.fixture
def bench() -> Bench:
    bench = Bench()
    bench.broker.open.set()
    bench.detector.there.set()
    return bench


def test_the_pauses_double_up_to_the_deadline() -> None:
    age, pauses = 0.0, []
    while (pause := next_handover(age, SETTINGS)) > 0:
        pauses.append(pause)
        age += pause
    assert pauses == [15, 30, 60, 120, 240, 135]
    assert age == SETTINGS.answer_deadline_seconds
    assert next_handover(age + 5, SETTINGS) == 0


def test_an_age_of_before_the_receipt_is_no_age() -> None:
    """A clock that was set back makes no circle of hand-overs."""
    assert next_handover(-3600, SETTINGS) == SETTINGS.handover_seconds


async def test_uploads_and_enrolments_go_to_their_topics_as_they_are(bench: Bench) -> None:
    upload = await bench.accept("r 1", camera="door", filename="a.jpg")
    enrolment = await bench.accept("r2", enroll_as="Ada")
    async with bench.running():
        await until(lambda: len(bench.outbox.delays) == 2)
    assert sorted(bench.broker.sent) == [("enroll/r2", enrolment.to_bytes()), ("uploads/r 1", upload.to_bytes())]
    assert bench.outbox.delays == [15, 15]
    assert bench.outbox.acknowledged == []


async def test_a_frame_on_its_way_is_not_copied(bench: Bench) -> None:
    bench.broker.open.clear()
    large = Frame.of(picture() + bytes(4 * 1024 * 1024), request_id="r1")
    await bench.outbox.send([large.to_bytes()])
    tracemalloc.start()
    try:
        async with bench.running():
            await until(lambda: bench.broker.under_way)
            held, _ = tracemalloc.get_traced_memory()
            bench.broker.open.set()
    finally:
        tracemalloc.stop()
    assert held < 1024 * 1024
    assert bench.broker.sent == [("uploads/r1", large.to_bytes())]


async def test_what_is_handed_over_later_comes_again_later(bench: Bench) -> None:
    bench.age = 20
    await bench.accept("r1")
    async with bench.running():
        await until(lambda: bench.outbox.delays)
    assert bench.outbox.delays == [35]


async def test_a_jump_of_the_clock_takes_no_frame_out(bench: Bench) -> None:
    await bench.accept("r1")
    async with bench.running():
        bench.age = 15 * 86_400
        await until(lambda: bench.outbox.delays)
    assert bench.outbox.delays == [15]
    assert bench.outbox.acknowledged == []


async def test_the_first_hand_over_alone_counts_as_a_receive(bench: Bench) -> None:
    bench.age = 20
    await bench.accept("first")
    await bench.accept("again", receives=2)
    async with bench.running():
        await until(lambda: len(bench.outbox.delays) == 2)
    assert len(bench.broker.sent) == 2
    assert bench.outbox.used == 1


@pytest.mark.parametrize(("waiting", "unreachable"), [(1, False), (0, True)])
async def test_nothing_is_handed_over_again_while_requests_wait_for_a_recognizer(
    bench: Bench, waiting: int, unreachable: bool
) -> None:
    bench.age, bench.waiting, bench.unreachable = 100, waiting, unreachable
    await bench.accept("first")
    for number in range(5):
        await bench.accept(f"again {number}", receives=2)
    async with bench.running():
        await until(lambda: len(bench.outbox.delays) == 6)
    assert [topic for topic, _ in bench.broker.sent] == ["uploads/first"]
    assert sorted(bench.outbox.delays)[:5] == [SETTINGS.handover_seconds] * 5
    assert bench.looks <= IN_FLIGHT, "once a second, by those that were under way together"


async def test_the_backlog_is_looked_at_again_after_a_while(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backlog, "_STANDS_SECONDS", 0)
    bench.waiting = 1
    await bench.accept("r1", receives=2)
    async with bench.running():
        await until(lambda: bench.outbox.delays)
        bench.waiting = 0
        await bench.accept("r1", receives=2)
        await until(lambda: bench.broker.sent)


async def test_a_frame_that_cannot_be_read_is_buried_and_the_rest_goes_on(bench: Bench) -> None:
    await bench.outbox.send([b"{}", b"nonsense\0picture"])
    await bench.accept("r1")
    async with bench.running():
        await until(lambda: bench.broker.sent)
        await until(lambda: len(bench.outbox.dead_lettered) == 2)
    assert all("bad_request" in reason for _, reason in bench.outbox.dead_lettered)


async def test_what_has_an_answer_or_has_expired_is_deleted(bench: Bench) -> None:
    for request_id in ("done", "failed", "expired"):
        await bench.accept(request_id)
    await bench.results.keep([answer("done"), answer("failed", status="failed", result="Failed")])
    bench.results.known["expired"] = replace(bench.results.known["expired"], status="expired")
    async with bench.running():
        await until(lambda: len(bench.outbox.acknowledged) == 3)
    assert bench.broker.sent == []
    assert bench.outbox.delays == []


async def test_what_is_past_the_answer_deadline_is_deleted(bench: Bench) -> None:
    bench.age = 600
    await bench.accept("r1")
    async with bench.running():
        await until(lambda: bench.outbox.acknowledged)
    assert bench.broker.sent == []


async def test_what_the_store_has_forgotten_is_noted_even_past_the_deadline(bench: Bench) -> None:
    """Else nobody would call it lost: 404 instead of an answer."""
    bench.age = 600
    await bench.accept("r1")
    bench.results.known.clear()
    async with bench.running():
        await until(lambda: bench.outbox.acknowledged)
    assert bench.broker.sent == []
    assert bench.results.known["r1"].status == "pending"


async def test_a_frame_whose_id_stands_for_another_one_by_now_is_deleted(bench: Bench) -> None:
    await bench.accept("r1")
    bench.results.known["r1"] = replace(bench.results.known["r1"], content_sha256="other")
    async with bench.running():
        await until(lambda: bench.outbox.acknowledged)
    assert bench.broker.sent == []


async def test_a_request_that_the_store_does_not_know_is_noted_and_handed_over(bench: Bench) -> None:
    await bench.accept("r1")
    bench.results.known.clear()
    async with bench.running():
        await until(lambda: bench.outbox.delays)
    assert bench.results.known["r1"].status == "pending"
    assert [topic for topic, _ in bench.broker.sent] == ["uploads/r1"]


async def test_nothing_is_handed_over_while_no_detector_is_there(bench: Bench) -> None:
    """At the broker it would take the room of cameras' frames."""
    asked = bench.detectors = AskedDetectors(present_seconds=0.02)
    bench.detector.there.clear()
    for number in range(20):
        await bench.accept(f"r{number}")
    async with bench.running():
        await until(lambda: asked.answers.count(False) >= 3 * IN_FLIGHT)
        assert bench.broker.sent == []
        bench.detector.there.set()
        await until(lambda: len(bench.broker.sent) == 20)
        bench.detector.there.clear()
        await until(lambda: not Detectors.there(asked))
        asked.answers.clear()
        await bench.accept("later")
        await until(lambda: asked.answers.count(False) >= 3 * IN_FLIGHT)
    assert len(bench.broker.sent) == 20
    assert bench.outbox.delays[20:] == [1.0], "given back at the stop"


async def test_a_broker_that_is_away_is_asked_again(bench: Bench) -> None:
    bench.broker.faults = 3
    await bench.accept("r1")
    async with bench.running():
        await until(lambda: not bench.broker.faults)
        await bench.accept("r2")
        await until(lambda: len(bench.broker.sent) == 2)
    assert bench.outbox.delays == [15, 15]


async def test_a_store_that_is_away_is_asked_again(bench: Bench) -> None:
    await bench.accept("r1")
    bench.results.unreadable.add("r1")
    async with bench.running():
        await bench.accept("r2")
        await until(lambda: bench.broker.sent)
        assert [topic for topic, _ in bench.broker.sent] == ["uploads/r2"]
        bench.results.unreadable.clear()
        await until(lambda: len(bench.broker.sent) == 2)
    assert bench.outbox.delays == [15, 15]


async def test_a_queue_that_is_away_is_asked_again(bench: Bench) -> None:
    bench.outbox.faults = 2
    await bench.accept("r1")
    async with bench.running():
        await until(lambda: bench.broker.sent)


async def test_few_are_on_their_way_at_a_time_and_arrive_after_the_stop(bench: Bench) -> None:
    bench.broker.open.clear()
    for number in range(3 * IN_FLIGHT):
        await bench.accept(f"r{number}")
    async with bench.running():
        await until(lambda: bench.broker.under_way == IN_FLIGHT)
        bench.stop.set()
        await asyncio.sleep(0.02)
        assert bench.broker.under_way == IN_FLIGHT
        bench.broker.open.set()
    assert len(bench.broker.sent) == len(bench.outbox.delays) == IN_FLIGHT


async def test_a_stop_does_not_wait_for_a_broker_that_says_nothing(bench: Bench) -> None:
    bench.policy = replace(QUICK, drain_seconds=0.01)
    bench.broker.open.clear()
    await bench.accept("r1")
    async with bench.running():
        await until(lambda: bench.broker.under_way)
    assert bench.broker.sent == []
    assert bench.outbox.acknowledged == []


async def test_hand_overs_are_never_too_many_for_the_queue(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message that comes back from its fifth lease is a dead letter."""
    monkeypatch.setattr(handover, "next_handover", lambda _age, _timing: 0.01)
    quick = GatewayServiceSettings.read(handover_seconds=0.01)
    async with Database.open(tmp_path / "outbox.db") as database:
        outbox = Inbox(database, "outbox", max_bytes=10**6, policy="all", id_window_seconds=600)
        await outbox.accept(Frame.of(picture(), request_id="r1"))
        async with asyncio.timeout(10), bench.hearing(), asyncio.TaskGroup() as tasks:
            work = HandOver(outbox, bench.results, bench.broker, Backlog(bench.depth), quick, bench.detectors)
            tasks.create_task(work.run(bench.stop))
            await until(lambda: len(bench.broker.sent) > 2 * MAX_RECEIVES)
            await bench.results.keep([answer("r1")])
            while (await outbox.depth()).bytes:  # noqa: ASYNC110 - deleting a message sets no event
                await asyncio.sleep(0.01)
            bench.stop.set()
        assert (await outbox.depth()).dead == 0


async def test_it_ends_beside_a_failed_sibling_though_another_writer_holds_the_outbox(
    bench: Bench, tmp_path: Path
) -> None:
    async with Database.open(tmp_path / "outbox.db") as database:
        outbox = Inbox(database, "outbox", max_bytes=10**6, policy="all", id_window_seconds=600)
        with closing(sqlite3.connect(database.path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")

            async def hand_over_beside_a_failing_sibling() -> None:
                async with bench.hearing(), asyncio.TaskGroup() as tasks:
                    backlog = Backlog(bench.depth)
                    work = HandOver(outbox, bench.results, bench.broker, backlog, SETTINGS, bench.detectors)
                    tasks.create_task(work.run(bench.stop))
                    await database.read(lambda _: None)  # every worker waits for the other writer by now
                    message = "sibling"
                    raise RuntimeError(message)

            group = asyncio.create_task(hand_over_beside_a_failing_sibling())
            await asyncio.wait({group}, timeout=10)
            ended = group.done()
            other.execute("ROLLBACK")
        bench.stop.set()
        with pytest.raises(ExceptionGroup, match="unhandled"):
            await group
        assert ended
