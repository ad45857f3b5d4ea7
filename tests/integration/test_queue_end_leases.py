"""What a killed process had in flight comes back at the next start, not a lease later."""

from pathlib import Path

from facewire.adapters.sqlite.database import Database
from facewire.adapters.sqlite.queue import SqliteQueue
from facewire.domain.ports import MAX_RECEIVES


async def test_ended_leases_come_back_at_once(tmp_path: Path) -> None:
    async with Database.open(tmp_path / "queue.db") as database:
        queue, other = SqliteQueue(database, "one"), SqliteQueue(database, "two")
        await queue.send([b"a", b"b"])
        await other.send([b"c"])
        lost = await queue.receive(2, wait=0)
        await other.receive(1, wait=0)
        await queue.end_leases()
        again = await queue.receive(2, wait=0)
        assert [(lease.body, lease.receives) for lease in again] == [(b"a", 2), (b"b", 2)]
        await queue.acknowledge(lost)
        assert (await queue.depth()).leased == 2
        assert (await other.depth()).leased == 1


async def test_a_delayed_message_stays_delayed(tmp_path: Path) -> None:
    async with Database.open(tmp_path / "queue.db") as database:
        queue = SqliteQueue(database, "one")
        await queue.send([b"a"])
        await queue.release(await queue.receive(1, wait=0), delay=60)
        await queue.end_leases()
        assert await queue.receive(1, wait=0) == []


async def test_what_ended_every_process_that_held_it_is_dead_lettered(tmp_path: Path) -> None:
    async with Database.open(tmp_path / "queue.db") as database:
        queue = SqliteQueue(database, "one")
        await queue.send([b"poison"])
        receives = 0
        while leases := await queue.receive(1, wait=0):
            receives = leases[0].receives
            await queue.end_leases()
        # The fifth receive answers; one that kills the process then is the last.
        assert MAX_RECEIVES <= receives <= MAX_RECEIVES + 1
        assert (await queue.depth()).dead == 1
