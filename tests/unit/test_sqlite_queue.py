"""What the queue in SQLite does beyond the contract."""

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from facewire.adapters.sqlite.database import Database
from facewire.adapters.sqlite.queue import _NEXT, _NEXT_DUE, _RETURN_DUE, QueueDepth, SqliteQueue
from facewire.domain.errors import QueueError
from facewire.domain.ports import MAX_RECEIVES, Lease


@dataclass
class Wall:
    """A wall clock that a test sets."""

    moment: datetime = datetime(2026, 11, 22, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.moment


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    async with Database.open(tmp_path / "facewire.db") as database:
        yield database


@pytest.fixture
def queue(database: Database) -> SqliteQueue:
    return SqliteQueue(database, "test")


async def _receive_and_lose(queue: SqliteQueue) -> Lease:
    """Receive one message and let its lease end."""
    (lease,) = await queue.receive(1, wait=1)
    await queue.extend([lease], -1)
    return lease


async def test_queues_of_one_database_are_apart(database: Database, queue: SqliteQueue) -> None:
    other = SqliteQueue(database, "other")
    await queue.send([b"1"])
    assert await other.receive(1, wait=0) == []
    assert len(await queue.receive(1, wait=0)) == 1


async def test_hands_on_and_acknowledges_in_one_commit(database: Database, queue: SqliteQueue) -> None:
    other, third = SqliteQueue(database, "other"), SqliteQueue(database, "third")
    await queue.send([b"1", b"2"])
    (first,) = await queue.receive(1, wait=0)
    assert queue.commits_with(other)
    await queue.hand_on([first], [(other, [b"a", b"b"]), (third, [b"c"])])
    assert [lease.body for lease in await other.receive(9, wait=0)] == [b"a", b"b"]
    assert [lease.body for lease in await third.receive(9, wait=0)] == [b"c"]
    assert await queue.depth() == QueueDepth(waiting=1, leased=0, dead=0, bytes=1)


async def test_hands_on_all_or_nothing(database: Database, queue: SqliteQueue) -> None:
    other = SqliteQueue(database, "other")
    await queue.send([b"1"])
    (lease,) = await queue.receive(1, wait=0)
    with pytest.raises(QueueError) as caught:
        await queue.hand_on([lease], [(other, [b"a", bytes(1_000_001)])])
    assert caught.value.code == "too_large"
    assert await other.receive(1, wait=0) == []
    assert (await queue.depth()).leased == 1


async def test_wakes_who_waits_for_what_is_handed_on(database: Database, queue: SqliteQueue) -> None:
    other = SqliteQueue(database, "other")
    await queue.send([b"1"])
    (lease,) = await queue.receive(1, wait=0)
    async with asyncio.timeout(0.9), asyncio.TaskGroup() as group:
        waiting = group.create_task(other.receive(1, wait=5))
        group.create_task(queue.hand_on([lease], [(other, [b"a"])]))
    assert [lease.body for lease in waiting.result()] == [b"a"]


async def test_commits_only_with_queues_of_its_file(queue: SqliteQueue, tmp_path: Path) -> None:
    async with Database.open(tmp_path / "elsewhere.db") as elsewhere:
        assert not queue.commits_with(SqliteQueue(elsewhere, "other"))


async def test_a_message_given_back_comes_before_newer_ones(queue: SqliteQueue) -> None:
    await queue.send([b"1", b"2"])
    (first,) = await queue.receive(1, wait=0)
    await queue.release([first])
    assert [lease.body for lease in await queue.receive(2, wait=0)] == [b"1", b"2"]


async def test_a_message_given_back_unused_has_not_been_received(queue: SqliteQueue) -> None:
    await queue.send([b"1"])
    for _ in range(2 * MAX_RECEIVES):
        (lease,) = await queue.receive(1, wait=0)
        assert lease.receives == 1
        await queue.release([lease], count_attempt=False)
    assert await queue.dead_letters().receive(1, wait=0) == []


async def test_an_ended_lease_is_good_until_the_message_is_lent_again(queue: SqliteQueue) -> None:
    await queue.send([b"1"])
    lease = await _receive_and_lose(queue)
    await queue.acknowledge([lease])
    assert await queue.receive(1, wait=0) == []


async def test_an_ended_lease_is_over_once_the_message_is_lent_again(queue: SqliteQueue) -> None:
    await queue.send([b"1"])
    ended = await _receive_and_lose(queue)
    (present,) = await queue.receive(1, wait=0)
    await queue.acknowledge([ended])
    assert (await queue.depth()).leased == 1
    await queue.acknowledge([present])
    assert (await queue.depth()).leased == 0


async def test_a_message_lost_at_every_receive_goes_to_the_dead_letters(database: Database, queue: SqliteQueue) -> None:
    await queue.send([b"poison"])
    for _ in range(MAX_RECEIVES):
        await _receive_and_lose(queue)

    assert await queue.receive(1, wait=0) == []
    assert await queue.depth() == QueueDepth(waiting=0, leased=0, dead=1, bytes=0)
    ((receives, reason, buried_at),) = await database.read(_dead_letters)
    assert (receives, reason) == (MAX_RECEIVES, "received 5 times and never acknowledged")
    assert abs(buried_at - time.time()) < 60


async def test_dead_letters_are_a_queue_without_a_limit_of_receives(queue: SqliteQueue) -> None:
    await queue.send([b"poison"])
    (lease,) = await queue.receive(1, wait=0)
    await queue.dead_letter(lease, "it cannot be read")
    dead = queue.dead_letters()
    for _ in range(MAX_RECEIVES + 1):
        await _receive_and_lose(dead)

    (letter,) = await dead.receive(1, wait=0)
    assert letter.body == b"poison"
    await dead.acknowledge([letter])
    assert (await queue.depth()).dead == 0


async def test_the_reason_of_a_buried_message_is_kept(database: Database, queue: SqliteQueue) -> None:
    await queue.send([b"poison"])
    (lease,) = await queue.receive(1, wait=0)
    await queue.dead_letter(lease, "it cannot be read")
    assert [row[:2] for row in await database.read(_dead_letters)] == [(1, "it cannot be read")]


async def test_dead_letters_leave_when_they_take_too_much_room(
    queue: SqliteQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("facewire.adapters.sqlite.queue.DEAD_BYTES", 250)
    await queue.send([b"%d" % number * 100 for number in range(4)])
    for lease in await queue.receive(4, wait=0):
        await queue.dead_letter(lease, "it cannot be read")
    assert [letter.body[:1] for letter in await queue.dead_letters().receive(9, wait=0)] == [b"2", b"3"]


async def test_dead_letters_leave_when_they_are_old(queue: SqliteQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("facewire.adapters.sqlite.queue.TRIM_SECONDS", 0.0)
    await queue.send([b"1"])
    (lease,) = await queue.receive(1, wait=0)
    await queue.dead_letter(lease, "it cannot be read")
    monkeypatch.setattr("facewire.adapters.sqlite.queue.DEAD_SECONDS", -1.0)
    await queue.receive(1, wait=0)
    assert (await queue.depth()).dead == 0


async def test_a_clock_that_is_set_back_keeps_no_message_lent_or_delayed(database: Database) -> None:
    wall = Wall()
    queue = SqliteQueue(database, "test", clock=wall)
    await queue.send([b"1", b"2"])
    (_, delayed) = await queue.receive(2, wait=0)
    await queue.release([delayed], delay=60)
    assert await queue.receive(2, wait=0) == []
    wall.moment -= timedelta(hours=1)
    assert [lease.body for lease in await queue.receive(2, wait=0)] == [b"1", b"2"]
    assert await queue.receive(2, wait=0) == []


async def test_a_clock_that_was_set_back_before_the_start_keeps_no_message_lent(database: Database) -> None:
    wall = Wall()
    queue = SqliteQueue(database, "test", clock=wall)
    await queue.send([b"1"])
    await queue.receive(1, wait=0)
    wall.moment -= timedelta(hours=1)
    assert len(await SqliteQueue(database, "test", clock=wall).receive(1, wait=0)) == 1


async def test_leases_and_delays_of_the_usual_length_are_no_work_of_the_clock(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("facewire.adapters.sqlite.queue.TRIM_SECONDS", 0.0)
    wall = Wall()
    queue = SqliteQueue(database, "test", clock=wall)
    await queue.send([b"1", b"2"])
    (first, second) = await queue.receive(2, wait=0)
    await queue.extend([first], 1000)
    await queue.release([second], delay=2000)
    assert await queue.receive(2, wait=0) == []
    wall.moment += timedelta(seconds=901)  # a delay lasts 15 minutes at most
    assert [lease.body for lease in await queue.receive(2, wait=0)] == [b"2"]


async def test_a_jump_of_the_clock_drops_no_dead_letter(database: Database) -> None:
    wall = Wall()
    queue = SqliteQueue(database, "test", clock=wall)
    await queue.send([b"1"])
    (lease,) = await queue.receive(1, wait=0)
    await queue.dead_letter(lease, "it cannot be read")
    wall.moment += timedelta(days=15)
    await queue.receive(1, wait=0)
    assert (await queue.depth()).dead == 1


async def test_depth_counts_waiting_delayed_and_leased(queue: SqliteQueue) -> None:
    assert await queue.depth() == QueueDepth(0, 0, 0, 0)
    await queue.send([b"12345"] * 4)
    first, second, _ = await queue.receive(3, wait=0)
    await queue.release([first], delay=60)
    assert await queue.depth() == QueueDepth(waiting=2, leased=2, dead=0, bytes=20)
    await queue.acknowledge([second])
    assert await queue.depth() == QueueDepth(waiting=2, leased=1, dead=0, bytes=15)


async def test_a_send_wakes_a_waiting_receive_at_once(database: Database, queue: SqliteQueue) -> None:
    waiting = asyncio.ensure_future(queue.receive(1, wait=10))
    await database.write(lambda _: None)  # the receive has looked by now
    started = time.monotonic()
    await SqliteQueue(database, "test").send([b"1"])
    await waiting
    assert time.monotonic() - started < 0.5


async def test_a_waiting_receive_wakes_when_a_delay_is_over(queue: SqliteQueue) -> None:
    await queue.send([b"1"])
    (lease,) = await queue.receive(1, wait=0)
    await queue.release([lease], delay=0.2)
    started = time.monotonic()
    assert len(await queue.receive(1, wait=10)) == 1
    assert 0.1 < time.monotonic() - started < 0.7


async def test_a_cancelled_receive_leaves_its_messages_to_others_uncounted(queue: SqliteQueue) -> None:
    await queue.send([b"1"])
    for _ in range(2 * MAX_RECEIVES):
        receive = asyncio.ensure_future(queue.receive(1, wait=10))
        await asyncio.sleep(0)
        receive.cancel()
        with pytest.raises(asyncio.CancelledError):
            await receive

    (lease,) = await queue.receive(1, wait=0)
    assert lease.receives == 1


async def test_a_cancelled_receive_ends_at_once_whatever_another_writer_holds(
    database: Database, queue: SqliteQueue
) -> None:
    await queue.send([b"1"])
    with closing(sqlite3.connect(database.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        receive = asyncio.create_task(queue.receive(1, wait=10))
        await database.read(lambda _: None)  # the receive waits for the other writer by now
        receive.cancel()
        async with asyncio.timeout(10):
            await asyncio.wait({receive})
        assert receive.cancelled()
        other.execute("ROLLBACK")

    (lease,) = await queue.receive(1, wait=10)
    assert lease.receives == 1


async def test_the_end_of_the_database_waits_for_what_a_cancelled_receive_hands_back(tmp_path: Path) -> None:
    async with Database.open(tmp_path / "facewire.db") as database:
        queue = SqliteQueue(database, "test")
        await queue.send([b"1"])
        receive = asyncio.create_task(queue.receive(1, wait=10))
        await asyncio.sleep(0)
        receive.cancel()
        await asyncio.wait({receive})
    async with Database.open(tmp_path / "facewire.db") as database:
        (lease,) = await SqliteQueue(database, "test").receive(1, wait=0)
        assert lease.receives == 1


async def test_a_receipt_of_another_queue_is_refused(queue: SqliteQueue) -> None:
    with pytest.raises(QueueError, match="bad_receipt"):
        await queue.acknowledge([Lease("AQEBwJnKyrHigUMZj6rYigCgxlaS3SLy0a", b"", 1)])


async def test_a_failing_database_is_a_queue_error(tmp_path: Path) -> None:
    async with Database.open(tmp_path / "facewire.db") as database:
        queue = SqliteQueue(database, "test")
    with pytest.raises(QueueError, match="closed"):
        await queue.send([b"1"])
    with pytest.raises(QueueError, match="closed"):
        await queue.depth()


@pytest.mark.parametrize(
    ("statement", "values"), [(_NEXT, ("test", 10)), (_NEXT_DUE, ("test",)), (_RETURN_DUE, ("test", 0))]
)
async def test_receiving_never_scans_the_queue(database: Database, statement: str, values: tuple[object, ...]) -> None:
    def plan(connection: sqlite3.Connection) -> str:
        rows = connection.execute(f"EXPLAIN QUERY PLAN {statement}", values)
        return "\n".join(row[3] for row in rows)

    steps = await database.write(plan)
    assert "messages_by_turn (queue=? AND visible_at" in steps
    assert "SCAN" not in steps
    assert "TEMP B-TREE" not in steps


def _dead_letters(connection: sqlite3.Connection) -> list[tuple[int, str, float]]:
    query = "SELECT receives, reason, buried_at FROM messages WHERE queue = 'test.dead'"
    return connection.execute(query).fetchall()
