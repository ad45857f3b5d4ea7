"""Several gateways: whichever has drained an answer, the listeners of each hear of it, and once."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from facewire.background import background
from facewire.messages import RecognizedFaces
from facewire.mqtt import Received
from facewire_gateway import relay as relay_module
from facewire_gateway.audience import Replica
from facewire_gateway.drain import settle
from facewire_gateway.feed import Event, Feed, Overflow, Subscription
from facewire_gateway.publish import ResultPublisher
from facewire_gateway.relay import relay
from gateway_fakes import FakeResults, answer, until

CONFLICT = {"stage": "intake", "code": "id_conflict", "detail": "used"}


@dataclass
class FakeListening:
    """A connection that has been made once; `hear` puts in what arrives."""

    connections: int = 1
    arrived: asyncio.Queue[Received] = field(default_factory=asyncio.Queue)
    acknowledged: int = 0

    async def messages(self) -> AsyncIterator[Received]:
        while True:
            yield await self.arrived.get()

    def hear(self, topic: str, payload: bytes) -> None:
        self.arrived.put_nowait(Received(topic, payload, 1, self._acknowledge))

    def _acknowledge(self) -> None:
        self.acknowledged += 1


@dataclass
class FakeBroker:
    """Brings what is published to every replica."""

    listening: list[FakeListening]
    topics: list[str] = field(default_factory=list)

    async def publish(self, topic: str, payload: bytes) -> None:
        self.topics.append(topic)
        for connection in self.listening:
            connection.hear(topic, payload)


@dataclass
class FakeOutbox:
    forgotten: list[str] = field(default_factory=list)

    async def forget(self, request_ids: Sequence[str]) -> None:
        self.forgotten += request_ids


@asynccontextmanager
async def relaying(*feeds: Feed) -> AsyncIterator[list[FakeListening]]:
    """Relay to each of the feeds; the first connection has been told of."""
    connections = [FakeListening() for _ in feeds]
    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        started = [
            tasks.create_task(relay(connection, feed)) for connection, feed in zip(connections, feeds, strict=True)
        ]
        await until(lambda: all(feed._count for feed in feeds))
        yield connections
        for task in started:
            task.cancel()


async def take(subscription: Subscription, count: int) -> list[str]:
    async with asyncio.timeout(5):
        events = [await subscription.next() for _ in range(count)]
    return [event.answer.request_id if isinstance(event, Event) else str(event) for event in events]


async def test_every_replica_hears_of_every_answer_once() -> None:
    results = FakeResults()
    here, there = Feed(results), Feed(results)
    async with relaying(here, there) as connections:
        broker, outbox = FakeBroker(connections), FakeOutbox()
        publisher = ResultPublisher(broker, uploads=True)
        audience = Replica(here, publisher, outbox)
        async with background(publisher.run(), name="publisher"):
            with here.subscribe() as mine, there.subscribe() as others:
                await settle([answer("a", camera="door"), answer("b")], results, audience)
                await settle([answer("a", camera="door")], results, audience)
                await settle([answer("c")], results, audience)
                assert await take(mine, 3) == await take(others, 3) == ["a", "b", "c"]
                here.close()
                there.close()
                assert await take(mine, 1) == await take(others, 1) == ["None"]
    assert broker.topics == ["clients/door/results", "uploads/b/results", "uploads/c/results"]
    assert outbox.forgotten == ["a", "b", "c"]
    assert [connection.acknowledged for connection in connections] == [3, 3]


async def test_who_waits_where_the_answer_is_drained_does_not_wait_for_the_broker() -> None:
    results = FakeResults()
    feed = Feed(results, poll_seconds=60)

    async def publish_nothing(_answers: Sequence[RecognizedFaces]) -> None:
        return

    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(feed.wait_for("a", 30))
        await until(lambda: feed.waiters)
        await settle([answer("a")], results, Replica(feed, publish_nothing, FakeOutbox()))
    assert waiting.result() is not None


async def test_who_waits_elsewhere_is_woken_over_the_broker() -> None:
    feed = Feed(FakeResults(), poll_seconds=60)
    async with relaying(feed) as [connection], asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(feed.wait_for("a", 30))
        await until(lambda: feed.waiters)
        connection.hear("uploads/a/results", answer("a").to_bytes())
    assert waiting.result() is not None


async def test_what_comes_twice_is_told_once_and_a_better_answer_again() -> None:
    feed = Feed(FakeResults())
    edge, cloud = answer("a", source="edge"), answer("a", result="Ada")
    async with relaying(feed) as [connection]:
        with feed.subscribe() as subscription:
            for found in (edge, edge, cloud, cloud, answer("b")):
                connection.hear("uploads/a/results", found.to_bytes())
            assert await take(subscription, 3) == ["a", "a", "b"]


async def test_the_memory_of_what_was_told_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_module, "MAX_REPLAY", 2)
    feed = Feed(FakeResults())
    async with relaying(feed) as [connection]:
        with feed.subscribe() as subscription:
            payloads = {name: answer(name).to_bytes() for name in "abc"}
            for name in "abcba":
                connection.hear(f"uploads/{name}/results", payloads[name])
            assert await take(subscription, 4) == ["a", "b", "c", "a"]


async def test_conflicts_and_what_is_no_answer_are_passed_over() -> None:
    feed = Feed(FakeResults())
    conflict = answer("a", status="failed", result="Failed", error=CONFLICT)
    async with relaying(feed) as [connection]:
        with feed.subscribe() as subscription:
            connection.hear("clients/door/results", conflict.to_bytes())
            connection.hear("clients/door/results", b"{}")
            connection.hear("clients/door/results", answer("b").to_bytes())
            assert await take(subscription, 1) == ["b"]
    assert connection.acknowledged == 3


async def test_a_connection_made_again_is_a_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_module, "_WATCH_SECONDS", 0.001)
    feed = Feed(FakeResults())
    async with relaying(feed) as [connection]:
        with feed.subscribe() as subscription:
            connection.connections += 1
            async with asyncio.timeout(5):
                assert await subscription.next() == Overflow(None)
