"""The feed and the event stream made of it."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace

import pytest

from facewire.domain.errors import FacewireError, RecognizeError, StoreError
from facewire.domain.messages import RecognizedFaces
from facewire_gateway.api import events
from facewire_gateway.api.problems import GatewayError
from facewire_gateway.delivery import feed
from facewire_gateway.delivery.feed import Event, Feed, Overflow, Subscription
from gateway_fakes import FaultyResults, answer, open_bench, until


def answers(*request_ids: str, **fields: object) -> list[RecognizedFaces]:
    return [answer(request_id, **fields) for request_id in request_ids]


def with_face(request_id: str, person: str) -> RecognizedFaces:
    face = {"index": 0, "person": person, "known": True, "similarity": 0.9, "box": (0, 0, 1, 1), "landmarks": None}
    return answer(request_id, faces=[{**face, "confidence": 1.0}])


async def take(subscription: Subscription, count: int) -> list[Event | Overflow | None]:
    async with asyncio.timeout(5):
        return [await subscription.next() for _ in range(count)]


def ids(items: Sequence[Event | Overflow | None]) -> list[str]:
    return [item.answer.request_id for item in items if isinstance(item, Event)]


@pytest.fixture
def results() -> FaultyResults:
    return FaultyResults()


@pytest.fixture
def source(results: FaultyResults) -> Feed:
    return Feed(results, poll_seconds=0.05)


async def test_every_subscriber_gets_every_answer_in_order(source: Feed) -> None:
    with source.subscribe() as one, source.subscribe() as two:
        source.publish(answers("a", "b"))
        source.publish(answers("c"))
        assert ids(await take(one, 3)) == ids(await take(two, 3)) == ["a", "b", "c"]
    assert source.subscribers == 0


async def test_filters_leave_the_rest_out(source: Feed) -> None:
    with source.subscribe(camera="door") as of_door, source.subscribe(person="Ada") as of_ada:
        source.publish([*answers("a", camera="door"), *answers("b", camera="gate"), with_face("c", "Ada")])
        source.publish([with_face("d", "Bob"), *answers("e", camera="door")])
        assert ids(await take(of_door, 2)) == ["a", "e"]
        assert ids(await take(of_ada, 1)) == ["c"]


async def test_a_slow_subscriber_loses_the_oldest_and_is_told(source: Feed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "MAX_WAITING", 3)
    with source.subscribe() as slow:
        source.publish(answers(*"abcde"))
        first, *rest = await take(slow, 4)
        assert first == Overflow(2)
        assert ids(rest) == ["c", "d", "e"]


async def keep_and_publish(results: FaultyResults, source: Feed, *request_ids: str) -> None:
    source.publish(await results.keep(answers(*request_ids)))


async def test_who_comes_back_gets_what_came_meanwhile(results: FaultyResults, source: Feed) -> None:
    await keep_and_publish(results, source, "a", "b", "c")
    with source.subscribe(after=None) as fresh:
        await keep_and_publish(results, source, "d")
        [last] = await take(fresh, 1)
    assert isinstance(last, Event)
    run = last.id.partition("-")[0]
    with source.subscribe(after=f"{run}-1") as back:
        assert ids(await take(back, 3)) == ["b", "c", "d"]
    with source.subscribe(after=last.id) as back:
        source.publish(answers("e"))
        assert ids(await take(back, 1)) == ["e"]


@pytest.mark.parametrize("after", ["other-1", "", "nonsense", "{run}-x", "{run}-0"])
async def test_who_comes_back_too_late_is_told(source: Feed, monkeypatch: pytest.MonkeyPatch, after: str) -> None:
    monkeypatch.setattr(source, "_recent", type(source._recent)(maxlen=2))
    source.publish(answers("a", "b", "c"))
    with source.subscribe(after=after.format(run=source._run)) as back:
        assert await take(back, 1) == [Overflow(None)]


async def test_what_is_replayed_is_what_the_store_says_by_then(results: FaultyResults, source: Feed) -> None:
    """Another gateway may have deleted a person meanwhile."""
    kept = await results.keep([with_face("a", "Ada"), with_face("b", "Ada"), with_face("c", "Bob")])
    source.publish(kept)
    results.known["a"] = replace(results.known["a"], answer=with_face("a", "Bob"))
    results.known["b"] = replace(results.known["b"], status="expired", answer=None)
    with (
        source.subscribe(after=f"{source._run}-0") as back,
        source.subscribe(after=f"{source._run}-0", person="Ada") as of_ada,
    ):
        events = await take(back, 2)
        source.close()
        assert await take(of_ada, 1) == [None]
    assert ids(events) == ["a", "c"]
    assert all("Ada" not in str(event) for event in events)


@pytest.mark.parametrize("fault", [StoreError("io_error", "disk"), RecognizeError("bad_message", "newer")])
async def test_a_replay_that_cannot_be_read_is_a_gap(
    results: FaultyResults, source: Feed, fault: FacewireError
) -> None:
    results.fault = fault
    await keep_and_publish(results, source, "a", "b")
    results.unreadable.add("a")
    with source.subscribe(after=f"{source._run}-0") as back:
        gap, event = await take(back, 2)
    assert gap == Overflow(None)
    assert ids([event]) == ["b"]


async def test_an_outage_is_told_at_once_and_to_who_comes_back_later(results: FaultyResults, source: Feed) -> None:
    await keep_and_publish(results, source, "a")
    with source.subscribe() as listening:
        source.miss()
        assert await take(listening, 1) == [Overflow(None)]
    with source.subscribe(after=f"{source._run}-1") as back:
        await keep_and_publish(results, source, "b")
        gap, event = await take(back, 2)
    assert gap == Overflow(None)
    assert ids([event]) == ["b"]


async def test_too_many_subscribers_are_refused(source: Feed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "MAX_SUBSCRIBERS", 1)
    with source.subscribe(), pytest.raises(GatewayError, match="too_many_listeners"), source.subscribe():
        pass
    with source.subscribe():
        pass


async def test_closing_ends_subscriptions_after_what_waits_and_long_polls_at_once(source: Feed) -> None:
    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(source.wait_for("r1", 30))
        with source.subscribe() as subscription:
            await until(lambda: source.waiters)
            source.publish(answers("a"))
            source.close()
            [event, end] = await take(subscription, 2)
            assert ids([event]) == ["a"]
            assert end is None
        with source.subscribe() as late:
            assert await take(late, 1) == [None]
    assert waiting.result() is None
    assert await source.wait_for("r1", 30) is None


async def test_a_cancelled_wait_leaves_nothing(source: Feed) -> None:
    waits = [asyncio.create_task(source.wait_for(f"r{number % 3}", 30)) for number in range(30)]
    async with asyncio.timeout(5):
        await until(lambda: source.waiters == 30)
    for wait in waits:
        wait.cancel()
    await asyncio.wait(waits)
    assert source.waiters == 0


async def test_all_who_wait_for_a_request_get_its_answer(source: Feed) -> None:
    waits = [asyncio.create_task(source.wait_for("r1", 30)) for _ in range(3)]
    async with asyncio.timeout(5):
        await until(lambda: source.waiters == 3)
        source.publish(answers("r1"))
        assert [found.request_id for found in await asyncio.gather(*waits) if found] == ["r1"] * 3
    assert source.waiters == 0


async def test_the_stream_is_made_of_server_sent_events(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "HEARTBEAT_SECONDS", 0.02)
    async with open_bench() as bench, asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        listening = tasks.create_task(bench.client.get("/v1/events", headers={"Last-Event-ID": "gone-1"}))
        await until(lambda: bench.feed.subscribers)
        await asyncio.sleep(0.05)
        bench.feed.publish(answers("r1"))
        bench.feed.close()
    response = listening.result()
    assert response.headers["Content-Type"].startswith("text/event-stream")
    blocks = response.text.strip().split("\n\n")
    assert blocks[1] == 'event: overflow\ndata: {"lost": null}'
    assert ": still here" in blocks
    kind, number, data = blocks[-1].split("\n")
    assert (kind, number) == ("event: result", f"id: {bench.feed._run}-1")
    assert json.loads(data.removeprefix("data: "))["request_id"] == "r1"
    assert bench.feed.subscribers == 0


async def test_of_streams_that_come_at_once_those_too_many_get_503_before_they_begin() -> None:
    async with open_bench() as bench, asyncio.timeout(30), asyncio.TaskGroup() as tasks:
        streams = [tasks.create_task(bench.client.get("/v1/events"), name=f"stream {n}") for n in range(260)]
        await until(lambda: sum(stream.done() for stream in streams) == 4)
        bench.feed.close()
    refused = [stream.result() for stream in streams if stream.result().status_code == 503]
    assert [response.json()["code"] for response in refused] == ["too_many_listeners"] * 4
    assert [response.headers["Retry-After"] for response in refused] == ["2"] * 4
    assert [stream.result().text for stream in streams].count(": connected\n\n") == 256
    assert bench.feed.subscribers == 0


async def test_too_many_streams_get_503(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "MAX_SUBSCRIBERS", 0)
    async with open_bench() as bench:
        response = await bench.client.get("/v1/events")
    assert (response.status_code, response.json()["code"]) == (503, "too_many_listeners")
