"""A message that no worker survives: five leases run out, and the request ends as failed."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from facewire.adapters.sqlite.database import Database
from facewire.adapters.sqlite.queue import SqliteQueue
from facewire.adapters.sqlite.results import SqliteResultStore
from facewire.domain.messages import DetectedFaces, RecognizedFaces, now
from facewire.domain.ports import MAX_RECEIVES
from facewire.work.retry import RetryStrategy
from facewire_gateway.delivery.dead_letters import drain_dead_letters
from facewire_gateway.delivery.drain import ANSWERS, drain_responses
from facewire_gateway.delivery.feed import Feed
from facewire_gateway.delivery.notifier import LocalNotifier

LEASE_SECONDS = 0.02


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    async with Database.open(tmp_path / "facewire.db") as opened:
        yield opened


async def publish_nothing(_answers: Sequence[RecognizedFaces]) -> None:
    return


async def lose_every_lease(queue: SqliteQueue) -> None:
    for _ in range(MAX_RECEIVES):
        assert len(await queue.receive(1, wait=5)) == 1
    async with asyncio.timeout(5):
        while (await queue.depth()).dead == 0:
            assert await queue.receive(1, wait=LEASE_SECONDS) == []


async def give_up(database: Database, body: bytes) -> SqliteResultStore:
    queue = SqliteQueue(database, "requests", lease_seconds=LEASE_SECONDS)
    results = SqliteResultStore(database)
    await queue.send([body])
    await lose_every_lease(queue)
    stop = asyncio.Event()
    stop.set()
    await drain_dead_letters(queue.dead_letters(), results, LocalNotifier(Feed(results), publish_nothing), stop)
    assert (await queue.depth()).dead == 0
    return results


async def test_the_request_is_answered_failed(database: Database) -> None:
    message = DetectedFaces(request_id="r1", camera="door", content_sha256="00")
    found = await (await give_up(database, message.to_bytes())).get("r1")
    assert found is not None
    assert found.answer is not None
    assert found.answer.error is not None
    assert (found.status, found.camera, found.answer.error.code) == ("failed", "door", "dead_letter")


async def test_a_better_answer_stays_however_late_the_letter_is(database: Database) -> None:
    message = DetectedFaces(request_id="r1", content_sha256="00", received_at=now() - timedelta(hours=1))
    done = RecognizedFaces(request_id="r1", result="Ada", content_sha256="00", received_at=message.received_at)
    await SqliteResultStore(database).keep([done])
    found = await (await give_up(database, message.to_bytes())).get("r1")
    assert found is not None
    assert found.status == "done"


async def test_an_answer_that_could_not_be_kept_in_time_is_the_answer(database: Database) -> None:
    done = RecognizedFaces(request_id="r1", result="Ada", content_sha256="00")
    found = await (await give_up(database, done.to_bytes())).get("r1")
    assert found is not None
    assert found.answer == done


async def test_what_names_no_request_is_deleted(database: Database) -> None:
    results = await give_up(database, b"no message of ours")
    assert await results.get("r1") is None


class SurprisedResults(SqliteResultStore):
    """Fails on every answer in a way that nobody has thought of."""

    async def keep(self, answers: Sequence[RecognizedFaces]) -> list[RecognizedFaces]:
        raise KeyError(len(answers))


async def test_an_answer_that_always_fails_unexpectedly_is_dead_lettered(database: Database) -> None:
    policy = replace(ANSWERS, retry=RetryStrategy(delays=(LEASE_SECONDS,)))
    queue, results = SqliteQueue(database, "responses"), SurprisedResults(database)
    await queue.send([RecognizedFaces(request_id="r1", result="Ada").to_bytes()])
    stop = asyncio.Event()
    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        notifier = LocalNotifier(Feed(results), publish_nothing)
        tasks.create_task(drain_responses(queue, results, notifier, stop, policy=policy))
        (letter,) = await queue.dead_letters().receive(1, wait=5)
        stop.set()
    assert RecognizedFaces.from_bytes(letter.body).request_id == "r1"
