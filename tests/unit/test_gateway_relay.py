"""Several gateways: whichever has drained an answer, the listeners of each hear of it, and once."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime

import pytest

from facewire.adapters.mqtt.connection import Received
from facewire.domain.messages import Frame, RecognizedFaces, now
from facewire.runtime.background import background
from facewire_gateway.delivery import feed as feed_module
from facewire_gateway.delivery import relay as relay_module
from facewire_gateway.delivery.drain import settle
from facewire_gateway.delivery.feed import Event, Feed, Overflow, Subscription
from facewire_gateway.delivery.notifier import ReplicatedNotifier
from facewire_gateway.delivery.publish import ResultPublisher
from facewire_gateway.delivery.relay import relay
from gateway_fakes import FaultyResults, answer, until

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

    async def forget(self, requests: Sequence[tuple[str, datetime]]) -> None:
        self.forgotten += [request_id for request_id, _ in requests]


@asynccontextmanager
async def relaying(results: FaultyResults, *feeds: Feed) -> AsyncIterator[list[FakeListening]]:
    """Relay what `results` holds to each of the feeds; the first connection has been told of."""
    connections = [FakeListening() for _ in feeds]
    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        started = [
            tasks.create_task(relay(connection, feed, results))
            for connection, feed in zip(connections, feeds, strict=True)
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
    results = FaultyResults()
    here, there = Feed(results), Feed(results)
    async with relaying(results, here, there) as connections:
        broker, outbox = FakeBroker(connections), FakeOutbox()
        publisher = ResultPublisher(broker, uploads=True)
        notifier = ReplicatedNotifier(here, publisher, outbox)
        async with background(publisher.run(), name="publisher"):
            with here.subscribe() as mine, there.subscribe() as others:
                await settle([answer("a", camera="door"), answer("b")], results, notifier)
                await settle([answer("a", camera="door")], results, notifier)
                await settle([answer("c")], results, notifier)
                assert await take(mine, 3) == ["a", "b", "c"]
                assert sorted(await take(others, 3)) == ["a", "b", "c"]
                here.close()
                there.close()
                assert await take(mine, 1) == await take(others, 1) == ["None"]
        await until(lambda: [connection.acknowledged for connection in connections] == [3, 3])
    assert sorted(broker.topics) == ["clients/door/results", "uploads/b/results", "uploads/c/results"]
    assert outbox.forgotten == ["a", "b", "c"]


async def test_who_waits_where_the_answer_is_drained_does_not_wait_for_the_broker() -> None:
    results = FaultyResults()
    feed = Feed(results, poll_seconds=60)

    async def publish_nothing(_answers: Sequence[RecognizedFaces]) -> None:
        return

    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(feed.wait_for("a", 30))
        await until(lambda: feed.waiters)
        await settle([answer("a")], results, ReplicatedNotifier(feed, publish_nothing, FakeOutbox()))
    assert waiting.result() is not None


async def test_listeners_of_the_gateway_that_drains_hear_of_what_the_broker_does_not_take() -> None:
    results = FaultyResults()
    feed = Feed(results)

    async def publish_nothing(_answers: Sequence[RecognizedFaces]) -> None:
        return

    with feed.subscribe() as subscription:
        await settle([answer("a")], results, ReplicatedNotifier(feed, publish_nothing, FakeOutbox()))
        assert await take(subscription, 1) == ["a"]


async def test_who_waits_elsewhere_is_woken_over_the_broker() -> None:
    results = FaultyResults()
    feed = Feed(results, poll_seconds=60)
    async with relaying(results, feed) as [connection], asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(feed.wait_for("a", 30))
        await until(lambda: feed.waiters)
        (kept,) = await results.keep([answer("a")])
        connection.hear("uploads/a/results", kept.to_bytes())
    assert waiting.result() is not None


async def test_what_comes_twice_is_told_once_and_a_better_answer_again() -> None:
    results = FaultyResults()
    feed = Feed(results)
    edge, cloud = answer("a", source="edge"), answer("a", result="Ada")
    async with relaying(results, feed) as [connection]:
        with feed.subscribe() as subscription:
            for found in (edge, cloud, answer("b")):
                await results.keep([found])
                for _ in range(2):
                    connection.hear("uploads/a/results", found.to_bytes())
                assert await take(subscription, 1) == [found.request_id]
            connection.hear("uploads/a/results", edge.to_bytes())
            await results.keep([last := answer("last")])
            connection.hear("uploads/a/results", last.to_bytes())
            assert await take(subscription, 1) == ["last"]


async def test_the_memory_of_what_was_told_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "MAX_REPLAY", 2)
    results = FaultyResults()
    feed = Feed(results)
    async with relaying(results, feed) as [connection]:
        with feed.subscribe() as subscription:
            kept = {found.request_id: found for found in await results.keep([answer(name) for name in "abc"])}
            for name in "abcba":
                connection.hear(f"uploads/{name}/results", kept[name].to_bytes())
            assert await take(subscription, 4) == ["a", "b", "c", "a"]


async def test_a_conflict_that_is_the_answer_of_its_request_is_told_and_one_that_is_not_kept_is_not() -> None:
    results = FaultyResults()
    feed = Feed(results)
    conflicts = {name: answer(name, status="failed", result="Failed", error=CONFLICT) for name in ("kept", "other")}
    upload = Frame.of(b"an upload", request_id="kept")
    refused = {"content_sha256": upload.content_sha256, "received_at": upload.received_at}
    conflicts["kept"] = conflicts["kept"].model_copy(update=refused)
    malformed = conflicts["kept"].model_copy(update={"answered_at": now(), "error": None})
    await results.expect(upload)
    await results.keep([conflicts["kept"], answer("other")])
    async with relaying(results, feed) as [connection]:
        with feed.subscribe() as subscription:
            for payload in (conflicts["other"].to_bytes(), malformed.to_bytes(), b"{}", conflicts["kept"].to_bytes()):
                connection.hear("clients/door/results", payload)
            assert await take(subscription, 1) == ["kept"]
        await until(lambda: connection.acknowledged == 4)


async def test_what_the_store_cannot_tell_of_is_a_gap() -> None:
    results = FaultyResults(unreadable={"a"})
    feed = Feed(results)
    async with relaying(results, feed) as [connection]:
        with feed.subscribe() as subscription:
            connection.hear("uploads/a/results", answer("a").to_bytes())
            async with asyncio.timeout(5):
                assert await subscription.next() == Overflow(None)


async def test_a_connection_made_again_is_a_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_module, "_WATCH_SECONDS", 0.001)
    results = FaultyResults()
    feed = Feed(results)
    async with relaying(results, feed) as [connection]:
        with feed.subscribe() as subscription:
            connection.connections += 1
            async with asyncio.timeout(5):
                assert await subscription.next() == Overflow(None)
