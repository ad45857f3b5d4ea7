"""The database file: commits, errors, mode, size, closing."""

import asyncio
import os
import sqlite3
import stat
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from facewire.adapters.sqlite.database import MAX_WAITING, Database
from facewire.adapters.sqlite.file import PAGE_BYTES, WAL_BYTES
from facewire.adapters.sqlite.gallery import SqliteGalleryStore
from facewire.adapters.sqlite.queue import SqliteQueue, insert
from facewire.adapters.sqlite.schema import STEPS
from facewire.domain.errors import IntakeError, QueueError, StoreError

MIB = 1024 * 1024


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    async with Database.open(tmp_path / "facewire.db") as database:
        yield database


def add(connection: sqlite3.Connection, body: bytes = b"x") -> None:
    insert(connection, "test", [body])


def executing(statement: str) -> Callable[[sqlite3.Connection], None]:
    def change(connection: sqlite3.Connection) -> None:
        connection.execute(statement)

    return change


def count(connection: sqlite3.Connection) -> int:
    (rows,) = connection.execute("SELECT count(*) FROM bodies").fetchone()
    return int(rows)


def delete_all(connection: sqlite3.Connection) -> None:
    connection.execute("DELETE FROM messages")


async def test_read_sees_what_a_write_returned_from(database: Database) -> None:
    for number in range(1, 20):
        await database.write(add)
        assert await database.read(count) == number


async def test_write_returns_the_value_of_the_change(database: Database) -> None:
    assert await database.write(count) == 0


async def test_changes_that_wait_together_share_one_commit(database: Database) -> None:
    statements: list[str] = []
    await database.write(lambda connection: connection.set_trace_callback(statements.append))

    await asyncio.gather(*(database.write(add) for _ in range(50)))

    assert await database.read(count) == 50
    assert statements.count("COMMIT") <= 1 + 3  # the trace's own, then as many as the writer's pace made


async def test_a_change_that_raises_is_rolled_back_alone(database: Database) -> None:
    def broken(connection: sqlite3.Connection) -> None:
        add(connection)
        raise IntakeError("overloaded", "the inbox is full")

    outcomes = await asyncio.gather(
        database.write(add), database.write(broken), database.write(add), return_exceptions=True
    )

    assert [type(outcome) for outcome in outcomes] == [type(None), IntakeError, type(None)]
    assert await database.read(count) == 2


async def test_an_sqlite_error_becomes_a_store_error_with_its_cause(database: Database) -> None:
    with pytest.raises(StoreError, match="no such table") as caught:
        await database.write(executing("SELECT * FROM missing"))

    assert isinstance(caught.value.__cause__, sqlite3.OperationalError)
    assert str(database.path) in caught.value.detail
    await database.write(add)


async def test_a_cursor_does_not_leave_its_thread(database: Database) -> None:
    for call in (database.write, database.read):
        with pytest.raises(TypeError, match="return rows"):
            await call(lambda connection: connection.execute("SELECT 1"))


async def test_an_error_takes_no_cursor_out_of_its_thread(database: Database) -> None:
    def broken(connection: sqlite3.Connection) -> None:
        rows = connection.execute("SELECT 1 UNION SELECT 2")
        next(rows)
        raise LookupError from ValueError(rows.description)

    with pytest.raises(LookupError) as caught:
        await database.read(broken)
    frames = [frame.frame for frame in caught.traceback if frame.name == "broken"]
    assert frames
    assert not any("rows" in frame.f_locals for frame in frames)


async def test_many_at_once_do_not_get_in_each_others_way(database: Database) -> None:
    queue = SqliteQueue(database, "test")

    async def work() -> None:
        for _ in range(40):
            await queue.send([b"x"])
            await queue.acknowledge(await queue.receive(2, wait=0))

    await asyncio.gather(*(work() for _ in range(8)))


async def test_a_reader_cannot_write_and_goes_on(database: Database) -> None:
    with pytest.raises(StoreError, match="cannot be written"):
        await database.read(add)

    assert await database.read(count) == 0


async def test_a_full_disk_is_told_and_survived(database: Database) -> None:
    pages = (await database.read(lambda connection: connection.execute("PRAGMA page_count").fetchone()))[0]
    await database.write(executing(f"PRAGMA max_page_count = {pages + 2}"))

    outcomes = await asyncio.gather(
        *(database.write(lambda connection: add(connection, b"x" * 100_000)) for _ in range(3)), return_exceptions=True
    )

    assert [getattr(outcome, "code", None) for outcome in outcomes] == ["disk_full"] * 3
    await database.write(executing("PRAGMA max_page_count = 100000"))
    await database.write(add)
    assert await database.read(count) == 1


async def test_a_cancelled_caller_leaves_the_writer_at_work(database: Database) -> None:
    writes = [asyncio.ensure_future(database.write(add)) for _ in range(MAX_WAITING + 50)]
    await asyncio.sleep(0)
    for write in writes[::2]:
        write.cancel()
    outcomes = await asyncio.gather(*writes, return_exceptions=True)

    assert sum(outcome is None for outcome in outcomes) == len(writes) // 2
    assert await database.read(count) >= len(writes) // 2
    await asyncio.gather(*(database.write(add) for _ in range(MAX_WAITING)))


async def test_closing_commits_what_was_written_before(tmp_path: Path) -> None:
    async with Database.open(tmp_path / "facewire.db") as database:
        writes = [asyncio.ensure_future(database.write(add)) for _ in range(100)]
        await asyncio.sleep(0)
    assert await asyncio.gather(*writes) == [None] * 100

    async with Database.open(tmp_path / "facewire.db") as database:
        assert await database.read(count) == 100


async def test_a_closed_database_refuses(tmp_path: Path) -> None:
    async with Database.open(tmp_path / "facewire.db") as database:
        pass
    with pytest.raises(StoreError, match="closed"):
        await database.write(add)
    with pytest.raises(StoreError, match="closed"):
        await database.read(count)


async def test_callers_waiting_for_a_place_when_it_closes_are_told(tmp_path: Path) -> None:
    async with Database.open(tmp_path / "facewire.db") as database:
        writes = [asyncio.ensure_future(database.write(add)) for _ in range(3 * MAX_WAITING)]
        await asyncio.sleep(0)
    async with asyncio.timeout(10):
        outcomes = await asyncio.gather(*writes, return_exceptions=True)
    assert {getattr(outcome, "code", "done") for outcome in outcomes} == {"done", "closed"}


async def test_the_files_are_private(tmp_path: Path) -> None:
    path = tmp_path / "data" / "facewire.db"
    umask = os.umask(0)
    try:
        async with Database.open(path) as database:
            await database.write(add)
            modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    finally:
        os.umask(umask)
    assert modes == {"facewire.db": 0o600, "facewire.db-wal": 0o600, "facewire.db-shm": 0o600}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


async def test_an_open_file_is_made_private(tmp_path: Path) -> None:
    path = tmp_path / "facewire.db"
    path.touch(mode=0o644)
    async with Database.open(path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def _code_of_opening(path: Path) -> str:
    with pytest.raises(StoreError) as caught:
        async with Database.open(path):
            pass
    assert str(path) in caught.value.detail
    return caught.value.code


async def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert await _code_of_opening(tmp_path / "file" / "facewire.db") == "unwritable"


async def test_a_folder_in_place_of_the_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "facewire.db").mkdir(mode=0o700)
    assert await _code_of_opening(tmp_path / "facewire.db") == "unwritable"


async def test_another_kind_of_file_is_refused_untouched(tmp_path: Path) -> None:
    path = tmp_path / "facewire.db"
    path.write_bytes(b"holiday pictures" * 1000)
    assert await _code_of_opening(path) == "not_a_database"
    assert path.read_bytes() == b"holiday pictures" * 1000


async def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "facewire.db"
    async with Database.open(path) as database:
        await database.write(executing("PRAGMA user_version = 99"))
    assert await _code_of_opening(path) == "newer_schema"


async def test_a_file_of_an_earlier_version_is_brought_up_to_date(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "facewire.db"
    with monkeypatch.context() as earlier:
        earlier.setattr("facewire.adapters.sqlite.file.STEPS", STEPS[:1])
        async with Database.open(path) as database:
            await database.write(executing("INSERT INTO messages (id, queue, size) VALUES (1, 'test', 1)"))
            await database.write(executing("INSERT INTO bodies VALUES (1, x'00')"))
    async with Database.open(path) as database:
        await database.write(lambda connection: insert(connection, "test", [b"new"], request_id="r1"))
        assert await database.read(count) == 2


async def test_space_is_used_again_and_the_log_stays_bounded_while_readers_read(tmp_path: Path) -> None:
    """500 messages of 100 KB pass through, 10 at a time: 50 MB in all."""
    path = tmp_path / "facewire.db"
    async with Database.open(path) as database:
        stop = asyncio.Event()

        async def read() -> None:
            while not stop.is_set():
                await database.read(count)

        async with asyncio.TaskGroup() as group:
            for _ in range(3):
                group.create_task(read())
            for _ in range(50):
                await database.write(lambda connection: insert(connection, "test", [bytes(100_000)] * 10))
                await database.write(delete_all)
            stop.set()
        log = path.with_name("facewire.db-wal").stat().st_size
    assert path.stat().st_size < 4 * MIB
    assert log < WAL_BYTES


async def test_a_backlog_that_is_gone_gives_its_space_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("facewire.adapters.sqlite.database.SPARE_PAGES", 1 * MIB // PAGE_BYTES)
    monkeypatch.setattr("facewire.adapters.sqlite.database.SHRINK_SECONDS", 0.0)
    path = tmp_path / "facewire.db"
    async with Database.open(path) as database:
        await database.write(lambda connection: insert(connection, "test", [bytes(100_000)] * 60))
        await database.write(delete_all)
        async with asyncio.timeout(10):
            while await database.write(_page_count) * PAGE_BYTES > 2 * MIB:  # noqa: ASYNC110 - the file tells nobody
                await asyncio.sleep(0.01)  # the writer shrinks it when no call waits
    assert path.stat().st_size <= 2 * MIB


def _page_count(connection: sqlite3.Connection) -> int:
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    return int(pages)


async def test_an_opening_that_is_cancelled_leaves_no_thread_behind(tmp_path: Path) -> None:
    async def open_and_stay() -> None:
        async with Database.open(tmp_path / "facewire.db"):
            await asyncio.Event().wait()

    for turns in range(8):
        opening = asyncio.create_task(open_and_stay())
        for _ in range(turns):
            await asyncio.sleep(0)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("sqlite-")]


@pytest.mark.parametrize("replaced", [False, True])
async def test_a_file_that_was_removed_or_replaced_is_noticed_where_readiness_asks(
    tmp_path: Path, *, replaced: bool
) -> None:
    path = tmp_path / "facewire.db"
    async with Database.open(path) as database:
        queue, gallery = SqliteQueue(database, "test"), SqliteGalleryStore(database)
        await queue.depth()
        await gallery.version()
        path.rename(tmp_path / "elsewhere.db")
        if replaced:
            path.touch()
        with pytest.raises(QueueError, match="removed or replaced") as of_queue:
            await queue.depth()
        with pytest.raises(StoreError, match="removed or replaced") as of_gallery:
            await gallery.version()
    assert str(tmp_path) not in f"{of_queue.value} {of_gallery.value}"
