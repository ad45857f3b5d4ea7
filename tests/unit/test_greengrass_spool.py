from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from facewire.adapters.sqlite.database import Database
from facewire.adapters.sqlite.queue import SqliteQueue
from facewire.adapters.sqlite.spool import Spool
from facewire.domain.errors import QueueError


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    async with Database.open(tmp_path / "spool.db") as opened:
        yield opened


def spool(database: Database, name: str, *copies: SqliteQueue, max_bytes: int = 1000) -> Spool:
    return Spool(database, name, max_bytes=max_bytes, lease_seconds=15, copies=copies)


async def bodies(queue: SqliteQueue) -> list[bytes]:
    return [lease.body for lease in await queue.receive(10, wait=0)]


async def test_what_is_sent_goes_to_the_copies_as_well(database: Database) -> None:
    copy = SqliteQueue(database, "results")
    queue = spool(database, "answers", copy)
    await queue.send([b"one", b"two"])
    assert await bodies(queue) == await bodies(copy) == [b"one", b"two"]


async def test_all_queues_of_the_file_share_the_bound(database: Database) -> None:
    requests, answers = spool(database, "requests"), spool(database, "answers")
    await requests.send([b"x" * 900])
    with pytest.raises(QueueError, match=r"answers: .* 900 of at most 1,000 bytes, 200 more .*spool_bytes") as error:
        await answers.send([b"x" * 100, b"y" * 100])
    assert error.value.code == "spool_full"
    assert await bodies(answers) == []
    await requests.acknowledge(await requests.receive(1, wait=0))
    await answers.send([b"x" * 100, b"y" * 100])
    assert len(await bodies(answers)) == 2


async def test_copies_count_too(database: Database) -> None:
    queue = spool(database, "answers", SqliteQueue(database, "results"), max_bytes=300)
    await queue.send([b"x" * 100])
    with pytest.raises(QueueError, match="spool_full"):
        await queue.send([b"x" * 100])
