"""From the response queue into the store and out again; and what time does to requests."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import pytest

from facewire.domain.errors import QueueError
from facewire.domain.messages import Frame, RecognizedFaces, now
from facewire.domain.ports import Lease
from facewire.runtime.backoff import Backoff
from facewire.runtime.settings import GatewaySettings
from facewire_gateway.delivery import expiry, publish
from facewire_gateway.delivery.drain import ANSWERS, drain_responses
from facewire_gateway.delivery.feed import Event, Feed
from facewire_gateway.delivery.notifier import LocalNotifier
from facewire_gateway.delivery.publish import ResultPublisher
from gateway_fakes import FakeQueue, FaultyResults, answer, picture, until

ERROR = {"stage": "intake", "code": "id_conflict", "detail": "used"}


@dataclass
class Drained:
    queue: FakeQueue = field(default_factory=FakeQueue)
    results: FaultyResults = field(default_factory=FaultyResults)
    published: list[RecognizedFaces] = field(default_factory=list)
    stop: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.feed = Feed(self.results)
        self.notifier = LocalNotifier(self.feed, self.publish)

    async def publish(self, answers: Sequence[RecognizedFaces]) -> None:
        self.published += answers

    async def run(self) -> None:
        async with asyncio.timeout(5):
            await drain_responses(self.queue, self.results, self.notifier, self.stop, policy=QUICK)

    async def drain(self, *answers: RecognizedFaces) -> None:
        await self.queue.send([found.to_bytes() for found in answers])
        self.stop.set()
        await self.run()


#: The policy of the product, which waits less and extends more often.
QUICK = replace(ANSWERS, lease_seconds=0.03, backoff=Backoff(first=0.001))


@pytest.fixture
def drained() -> Drained:
    return Drained()


def names(answers: Sequence[RecognizedFaces]) -> list[str]:
    return [found.request_id for found in answers]


async def test_answers_are_kept_told_and_then_acknowledged(drained: Drained) -> None:
    with drained.feed.subscribe() as subscription:
        await drained.drain(answer("a", camera="door"), answer("b"))
        told = [await subscription.next(), await subscription.next()]
    assert [event.answer.request_id for event in told if isinstance(event, Event)] == ["a", "b"]
    assert list(drained.results.known) == ["a", "b"]
    assert names(drained.published) == ["a", "b"]
    assert len(drained.queue.acknowledged) == 2


async def test_what_is_known_already_is_not_told_again(drained: Drained) -> None:
    await drained.drain(answer("a", camera="door"), answer("a", camera="door", source="edge"))
    await drained.drain(answer("a", camera="door"))
    assert names(drained.published) == ["a"]
    assert len(drained.queue.acknowledged) == 3


async def test_a_conflict_is_told_and_not_kept(drained: Drained) -> None:
    conflict = answer("a", status="failed", result="Failed", camera="door", error=ERROR)
    await drained.drain(conflict)
    assert drained.results.known == {}
    assert names(drained.published) == ["a"]
    with drained.feed.subscribe() as subscription:
        await drained.drain(conflict, answer("b"))
        event = await subscription.next()
    assert isinstance(event, Event)
    assert event.answer.request_id == "b"


async def test_a_conflict_that_refuses_the_pending_request_is_its_answer(drained: Drained) -> None:
    """An upload under an id whose first use only the detector knows of."""
    upload = Frame.of(picture(), request_id="a")
    await drained.results.expect(upload)
    conflict = answer("a", status="failed", result="Failed", content_sha256=upload.content_sha256, error=ERROR)
    other = conflict.model_copy(update={"content_sha256": "other"})
    await drained.drain(other)
    assert drained.results.known["a"].answer is None
    await drained.drain(conflict)
    assert drained.results.known["a"].answer == conflict
    assert names(drained.published) == ["a", "a"]


async def test_a_refused_message_is_told_even_where_a_better_answer_stays(drained: Drained) -> None:
    malformed = answer("a", status="failed", result="Failed", camera="door", error={**ERROR, "code": "bad_request"})
    await drained.drain(answer("a", camera="door"))
    await drained.drain(malformed)
    assert names(drained.published) == ["a", "a"]
    assert drained.published[1].error is not None
    assert drained.results.known["a"].status == "done"


async def test_what_cannot_be_read_is_buried_and_the_rest_goes_on(drained: Drained) -> None:
    await drained.queue.send([b"{}", b"nonsense"])
    await drained.drain(answer("a"))
    assert [lease.body for lease, _ in drained.queue.dead_lettered] == [b"{}", b"nonsense"]
    assert all("bad_message" in reason for _, reason in drained.queue.dead_lettered)
    assert list(drained.results.known) == ["a"]
    assert len(drained.queue.acknowledged) == 1


async def test_a_store_out_of_reach_loses_nothing_and_tells_nobody(drained: Drained) -> None:
    drained.results.faults = 3
    await drained.queue.send([answer("a", camera="door").to_bytes()])
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(drained.run())
        await until(lambda: drained.queue.acknowledged)
        drained.stop.set()
    assert drained.results.faults == 0
    assert names(drained.published) == ["a"]
    assert len(drained.queue.acknowledged) == 1


async def test_a_store_out_of_reach_uses_up_no_receives(drained: Drained) -> None:
    """Each return would count towards the five after which the message is a dead letter."""
    drained.results.faults = 8
    await drained.queue.send([answer("a").to_bytes(), b"nonsense"])
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(drained.run())
        await until(lambda: drained.queue.dead_lettered)
        drained.stop.set()
    assert drained.queue.returned == 0
    assert 2 in {len(leases) for leases, _ in drained.queue.extended}, "both are held"
    assert [lease.body for lease, _ in drained.queue.dead_lettered] == [b"nonsense"]


async def test_a_stop_during_an_outage_of_the_store_returns_the_answers(drained: Drained) -> None:
    drained.results.faults = 1_000_000
    await drained.queue.send([answer("a").to_bytes()])
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(drained.run())
        await until(lambda: len(drained.queue.extended) >= 3)
        assert drained.queue.returned == 0
        drained.stop.set()
    assert drained.queue.returned == drained.queue.uncounted == 1
    assert len(drained.queue.delayed) == 1


async def test_a_stop_does_not_wait_for_a_store_out_of_reach(drained: Drained) -> None:
    drained.results.faults = 1_000_000
    await drained.drain(answer("a", camera="door"))
    assert drained.published == []
    assert drained.queue.returned == drained.queue.uncounted == 1


async def test_a_queue_out_of_reach_is_asked_again(drained: Drained) -> None:
    drained.queue.faults = 3
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(drained.run())
        await until(lambda: not drained.queue.faults)
        await drained.queue.send([answer("a").to_bytes()])
        await until(lambda: drained.queue.acknowledged)
        drained.stop.set()
    assert list(drained.results.known) == ["a"]


class SurprisedResults(FaultyResults):
    """Fails on one answer in a way that nobody has thought of."""

    async def keep(self, answers: Sequence[RecognizedFaces]) -> list[RecognizedFaces]:
        if "odd" in names(answers):
            raise KeyError(names(answers))
        return await super().keep(answers)


async def test_an_answer_that_fails_unexpectedly_is_put_off_and_its_neighbours_go_on(drained: Drained) -> None:
    drained.results = SurprisedResults()
    await drained.drain(answer("a", camera="door"), answer("odd"), answer("b"))
    assert list(drained.results.known) == ["a", "b"]
    assert names(drained.published) == ["a", "b"]
    assert [RecognizedFaces.from_bytes(lease.body).request_id for lease in drained.queue.delayed] == ["odd"]
    assert len(drained.queue.acknowledged) == 2


class SurprisedQueue(FakeQueue):
    """Fails on the first receives in a way that nobody has thought of."""

    async def receive(self, limit: int, *, wait: float) -> list[Lease]:
        if self.faults:
            self.faults -= 1
            raise KeyError(limit)
        return await super().receive(limit, wait=wait)


async def test_a_receive_that_fails_unexpectedly_is_tried_again(drained: Drained) -> None:
    drained.queue = SurprisedQueue(faults=3)
    await drained.queue.send([answer("a").to_bytes()])
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(drained.run())
        await until(lambda: drained.queue.acknowledged)
        drained.stop.set()
    assert list(drained.results.known) == ["a"]


async def test_a_cancelled_drain_gives_the_batch_back_to_be_told_again(drained: Drained) -> None:
    entered = asyncio.Event()

    async def hang(answers: Sequence[RecognizedFaces]) -> None:
        assert answers
        entered.set()
        await asyncio.Event().wait()

    await drained.queue.send([answer("a", camera="door").to_bytes()])
    work = drain_responses(
        drained.queue, drained.results, LocalNotifier(drained.feed, hang), drained.stop, policy=QUICK
    )
    task = asyncio.create_task(work)
    async with asyncio.timeout(5):
        await entered.wait()
        task.cancel()
        await asyncio.wait((task,))
    assert task.cancelled()
    assert (drained.queue.acknowledged, drained.queue.returned, drained.queue.uncounted) == ([], 1, 1)
    drained.stop.set()
    await drained.run()
    assert names(drained.published) == ["a"]


@dataclass
class FakeBroker:
    faults: int = 0
    sent: list[tuple[str, bytes]] = field(default_factory=list)

    async def publish(self, topic: str, payload: bytes) -> None:
        if self.faults:
            self.faults -= 1
            raise QueueError("mqtt_not_connected", "no connection")
        self.sent.append((topic, payload))


@asynccontextmanager
async def running(broker: FakeBroker, deadline_seconds: float = 5.0) -> AsyncIterator[ResultPublisher]:
    publisher = ResultPublisher(broker, deadline_seconds=deadline_seconds)
    task = asyncio.create_task(publisher.run())
    yield publisher
    async with asyncio.timeout(5):
        await publisher.flush()
    task.cancel()
    await asyncio.wait((task,))


async def test_answers_reach_their_camera_in_order_over_an_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish, "_FIRST_PAUSE_SECONDS", 0.001)
    broker, answers = FakeBroker(faults=3), [answer(f"{number}", camera="gate 2") for number in range(20)]
    async with running(broker) as publisher:
        await publisher(answers)
    assert broker.sent == [("clients/gate 2/results", found.to_bytes()) for found in answers]


async def test_a_broker_that_takes_its_time_is_given_several_answers_at_once() -> None:
    class SlowBroker(FakeBroker):
        def __init__(self) -> None:
            super().__init__()
            self.under_way: list[str] = []
            self.go_on = asyncio.Event()

        async def publish(self, topic: str, payload: bytes) -> None:
            self.under_way.append(topic)
            await self.go_on.wait()
            await super().publish(topic, payload)

    broker, cameras = SlowBroker(), [f"camera {number}" for number in range(100)]
    async with running(broker) as publisher:
        await publisher([answer(f"{turn} {name}", camera=name) for turn in range(2) for name in cameras])
        await until(lambda: len(broker.under_way) == publish.LANES)
        assert len(set(broker.under_way)) == publish.LANES, "one at a time to each camera"
        broker.go_on.set()
    assert len(broker.sent) == 200


async def test_what_the_broker_does_not_take_in_time_is_dropped() -> None:
    broker = FakeBroker(faults=1_000_000)
    async with running(broker, deadline_seconds=0.01) as publisher:
        await publisher([answer("a", camera="door")])
    assert broker.sent == []


async def test_a_camera_that_is_no_topic_gets_nothing() -> None:
    broker = FakeBroker()
    async with running(broker) as publisher:
        await publisher([answer("a", camera="a/#"), answer("b"), answer("c", camera="door")])
    assert [topic for topic, _ in broker.sent] == ["clients/door/results"]


async def test_answers_without_a_camera_go_to_their_upload_where_replicas_listen() -> None:
    broker = FakeBroker()
    publisher = ResultPublisher(broker, uploads=True)
    task = asyncio.create_task(publisher.run())
    await publisher([answer("r 1"), answer("r2", camera="door")])
    async with asyncio.timeout(5):
        await publisher.flush()
    task.cancel()
    await asyncio.wait((task,))
    assert {topic for topic, _ in broker.sent} == {"uploads/r 1/results", "clients/door/results"}


async def test_a_full_queue_does_not_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish, "MAX_WAITING", 2)
    broker = FakeBroker()
    async with running(broker) as publisher:
        await publisher([answer(name, camera="door") for name in "abc"])
    assert len(broker.sent) == 2


async def expect(results: FaultyResults, request_id: str, age: float) -> None:
    received_at = now() - timedelta(seconds=age)
    await results.expect(Frame.of(picture(), request_id=request_id, camera="door", received_at=received_at))


async def test_what_is_overdue_is_lost_and_told(drained: Drained) -> None:
    await expect(drained.results, "old", 700)
    await expect(drained.results, "young", 500)
    await expiry.mark_lost(GatewaySettings.read(), drained.results, drained.notifier)
    assert drained.results.known["young"].status == "pending"
    lost = drained.results.known["old"].answer
    assert lost is not None
    assert lost.error is not None
    assert (lost.status, lost.error.stage, lost.error.code) == ("failed", "gateway", "lost")
    assert names(drained.published) == ["old"]
    await drained.drain(answer("old", result="Ada"))
    assert drained.results.known["old"].status == "done"


async def test_a_jump_of_the_clock_loses_no_request_and_lets_nothing_expire(
    drained: Drained, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expiry, "_PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(expiry, "_EXPIRE_EVERY_SECONDS", 0.0)
    await expect(drained.results, "in flight", 10)
    ahead, looks = timedelta(), 0

    def wall() -> datetime:
        nonlocal looks
        looks += 1
        return now() + ahead

    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        work = expiry.run_expiry(GatewaySettings.read(), drained.results, drained.notifier, drained.stop, clock=wall)
        tasks.create_task(work)
        await until(lambda: looks)
        ahead, looks = timedelta(days=15), 0
        await until(lambda: looks > 5)
        drained.stop.set()
    assert drained.results.known["in flight"].status == "pending"
    assert drained.results.expired
    assert max(drained.results.expired) < now() - timedelta(days=6)


async def test_the_expiry_goes_on_when_the_store_does_not_answer(
    drained: Drained, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expiry, "_PAUSE_SECONDS", 0.001)
    await expect(drained.results, "old", 700)
    drained.results.faults = 2
    settings = GatewaySettings.read()
    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        tasks.create_task(expiry.run_expiry(settings, drained.results, drained.notifier, drained.stop))
        await until(lambda: drained.published)
        drained.stop.set()
    assert drained.results.known["old"].status == "failed"
