"""One database file and several processes: opening, writing, being killed."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from facewire.adapters.sqlite.database import Database
from facewire.adapters.sqlite.gallery import SqliteGalleryStore
from facewire.adapters.sqlite.inbox import Inbox
from facewire.adapters.sqlite.queue import SqliteQueue
from facewire.domain.errors import StoreError
from facewire.domain.messages import Frame

#: Sends `count` messages named after itself, ten at a time by four tasks, and prints each once its send returned.
_SENDER = """
import asyncio, sys
from pathlib import Path
from facewire.adapters.sqlite.queue import SqliteQueue
from facewire.adapters.sqlite.database import Database

async def send(queue, names):
    for name in names:
        await queue.send([name.encode()])
        print(name, flush=True)

async def main(path, prefix, count):
    async with Database.open(Path(path)) as database, asyncio.TaskGroup() as group:
        queue = SqliteQueue(database, "test")
        for task in range(4):
            group.create_task(send(queue, [f"{prefix}-{task}-{number}" for number in range(int(count))]))

asyncio.run(main(*sys.argv[1:]))
"""

#: Works off the inbox, a message for each frame, until the inbox has been empty for as long as a lease.
_WORKER = """
import asyncio, sys
from pathlib import Path
from facewire.domain.messages import Frame
from facewire.adapters.sqlite.inbox import Inbox
from facewire.adapters.sqlite.queue import SqliteQueue
from facewire.adapters.sqlite.database import Database

async def main(path):
    async with Database.open(Path(path)) as database:
        inbox = Inbox(database, max_bytes=10**9, policy="all", id_window_seconds=600, lease_seconds=2)
        answers = SqliteQueue(database, "answers")
        print("ready", flush=True)
        while leases := await inbox.receive(4, wait=4):
            await answers.send([Frame.from_bytes(lease.body).request_id.encode() for lease in leases])
            await inbox.acknowledge(leases)

asyncio.run(main(*sys.argv[1:]))
"""


@asynccontextmanager
async def worker(path: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _WORKER, str(path), stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@asynccontextmanager
async def sender(path: Path, prefix: str, count: int) -> AsyncIterator[asyncio.subprocess.Process]:
    arguments = ("-c", _SENDER, str(path), prefix, str(count))
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments, stdout=asyncio.subprocess.PIPE)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def printed(process: asyncio.subprocess.Process) -> list[str]:
    output, _ = await process.communicate()
    return output.decode().split()


async def drain(queue: SqliteQueue) -> list[str]:
    got: list[str] = []
    while leases := await queue.receive(100, wait=0):
        got += [lease.body.decode() for lease in leases]
        await queue.acknowledge(leases)
    return got


async def test_processes_open_a_new_file_at_once_and_write_together(tmp_path: Path) -> None:
    path = tmp_path / "data" / "facewire.db"
    async with sender(path, "a", 25) as one, sender(path, "b", 25) as two, sender(path, "c", 25) as three:
        sent = [name for names in await asyncio.gather(*map(printed, (one, two, three))) for name in names]
    assert len(sent) == 300
    async with Database.open(path) as database:
        assert sorted(await drain(SqliteQueue(database, "test"))) == sorted(sent)


async def test_a_waiting_receive_finds_what_another_process_sends(tmp_path: Path) -> None:
    path = tmp_path / "facewire.db"
    async with Database.open(path) as database:
        waiting = asyncio.ensure_future(SqliteQueue(database, "test").receive(10, wait=30))
        async with sender(path, "other", 1) as process:
            assert len(await printed(process)) == 4
        async with asyncio.timeout(5):
            assert (await waiting)[0].body.startswith(b"other-")


async def test_what_a_write_returned_from_survives_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "facewire.db"
    async with sender(path, "a", 100_000) as process:
        assert process.stdout is not None
        sent = [(await process.stdout.readline()).decode().strip() for _ in range(200)]
        process.send_signal(signal.SIGKILL)
        sent += await printed(process)

    assert process.returncode == -signal.SIGKILL
    async with Database.open(path) as database:
        got = await drain(SqliteQueue(database, "test"))
        (verdict,) = await database.read(lambda connection: connection.execute("PRAGMA integrity_check").fetchone())
    # The last line may be cut off; a commit whose caller was not told may be there as well.
    assert set(sent[:-1]) <= set(got)
    assert len(got) - len(sent) <= 4
    assert verdict == "ok"


async def test_frames_of_one_inbox_are_all_done_though_one_of_its_processes_is_killed(tmp_path: Path) -> None:
    """300 frames of 100 kB committed by one process, worked off by three others at the same time."""
    path = tmp_path / "inbox.db"
    ids = [f"r{number}" for number in range(300)]
    async with Database.open(path) as database, worker(path) as one, worker(path) as two, worker(path) as three:
        inbox = Inbox(database, max_bytes=10**9, policy="all", id_window_seconds=600)
        for start in range(0, 300, 30):
            frames = [Frame.of(bytes(100_000), request_id=name) for name in ids[start : start + 30]]
            await asyncio.gather(*(inbox.accept(frame) for frame in frames))
            if start == 120:
                one.send_signal(signal.SIGKILL)
        async with asyncio.timeout(60):
            assert [await each.wait() for each in (two, three)] == [0, 0]
        answered = await drain(SqliteQueue(database, "answers"))
        depth = await inbox.depth()
    assert set(answered) == set(ids)
    assert (depth.waiting, depth.leased, depth.dead) == (0, 0, 0)
    assert path.with_name("inbox.db-wal").exists() is False


async def test_a_writer_that_holds_the_file_too_long_is_told_as_busy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("facewire.adapters.sqlite.file.BUSY_SECONDS", 0.2)
    path = tmp_path / "facewire.db"
    async with Database.open(path) as holder, Database.open(path) as database:
        held, release = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()

        def hold(_: object) -> None:
            loop.call_soon_threadsafe(held.set)
            asyncio.run_coroutine_threadsafe(release.wait(), loop).result(10)

        holding = asyncio.ensure_future(holder.write(hold))
        await held.wait()
        with pytest.raises(StoreError) as caught:
            await database.write(lambda _: None)
        assert await SqliteGalleryStore(database).version() == 0  # reading goes on
        release.set()
        await holding
        await database.write(lambda _: None)
    assert caught.value.code == "busy"
