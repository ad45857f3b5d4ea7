"""One SQLite file for queues, results and gallery: a writer thread that commits in groups, readers beside it.

The file is in WAL mode: what a durable write returned from is on the disk, and of the others a power failure may take
back the latest, never one before the other. Other processes may open the same file at the same time. A connection
lives and dies in its own thread.
"""

import asyncio
import concurrent.futures
import queue
import sqlite3
import threading
import time
import traceback
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

import structlog

from facewire.adapters.sqlite.file import PAGE_BYTES, explained, open_reader, open_writer
from facewire.domain.errors import FacewireError, StoreError

T = TypeVar("T")
_log = structlog.get_logger()

#: Calls that may wait for a thread; further callers wait for a place.
MAX_WAITING = 256
#: Changes that share one commit at most, so that the first of them does not wait long.
MAX_GROUP = 64
READERS = 2
#: Free space the file may keep for reuse; beyond it the writer gives some back to the disk each second.
SPARE_PAGES = 64 * 1024 * 1024 // PAGE_BYTES
SHRINK_SECONDS = 1.0
SHRINK_PAGES = 4 * 1024 * 1024 // PAGE_BYTES


class Database:
    """One SQLite file, shared by the queues and stores of a process. Open it with `async with Database.open(path)`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._writer = _Lane("sqlite-writer", 1, lambda: open_writer(path), _serve_writes)
        self._readers = _Lane("sqlite-reader", READERS, lambda: open_reader(path), _serve_reads)
        self._signals: defaultdict[str, Signal] = defaultdict(Signal)
        self._background: set[asyncio.Task[None]] = set()
        self._file: tuple[int, int] | None = None

    @classmethod
    @asynccontextmanager
    async def open(cls, path: Path) -> AsyncIterator[Self]:
        """Open the file, made with mode 0600 (its folder with 0700) where absent, and close it in the end.

        StoreError `unwritable`, `not_a_database`, `newer_schema` where that cannot be done. Closing first commits
        what was written before, and what is written in the background.
        """
        database = cls(path)
        try:
            await database._writer.start()
            await database._readers.start()
            database._file = await asyncio.to_thread(_identity, path)
            yield database
        finally:
            if database._background:
                await asyncio.wait(database._background)
            await database._readers.close()
            await database._writer.close()

    async def write(self, change: Callable[[sqlite3.Connection], T], *, durable: bool = True) -> T:
        """Run `change` in the writer thread and return its value once it is committed.

        A change that is not `durable` survives the end of the process, but may not survive a power failure; it saves
        the wait for the disk where losing it only means to do something again.

        Changes that wait together share one commit; one that raises is rolled back alone and its error raised here,
        an SQLite error as StoreError. A caller cancelled meanwhile does not know: the change may still be committed.
        A change returns values or rows, never a cursor.
        """
        return await self._writer.call(change, durable=durable)

    async def read(self, query: Callable[[sqlite3.Connection], T]) -> T:
        """Run `query` in a reader thread, on one consistent view of everything committed so far."""
        return await self._readers.call(query)

    async def check(self) -> None:
        """Raise StoreError where the database cannot be read, `removed` where its path names another file or none.

        What is written to a file that was removed is gone when the process ends.
        """
        if await self.read(lambda _: _identity(self.path)) != self._file:
            detail = "the database file was removed or replaced while it was open: put it back and start again"
            raise StoreError("removed", detail)

    def in_background(self, work: "asyncio.Task[None]") -> None:
        """Let `work` come to its end by itself, at the latest as the database is closed."""
        self._background.add(work)
        work.add_done_callback(self._background.discard)

    def signal(self, name: str) -> "Signal":
        """Return the signal that users of this database in this process share under `name`."""
        return self._signals[name]


class Signal:
    """Wakes everybody who waits, within one event loop. Take `event` first, look, then wait for it: none is missed."""

    def __init__(self) -> None:
        self.event = asyncio.Event()

    def notify(self) -> None:
        """Wake all who wait for the present event."""
        self.event.set()
        self.event = asyncio.Event()


@contextmanager
def erasing(connection: sqlite3.Connection) -> Iterator[None]:
    """Overwrite with zeros what is deleted meanwhile, for data that must be gone from the file as well.

    The log holds it until it is written over or the database is closed.
    """
    connection.execute("PRAGMA secure_delete = ON")
    try:
        yield
    finally:
        connection.execute("PRAGMA secure_delete = OFF")


def _identity(path: Path) -> tuple[int, int] | None:
    """Return the device and inode that the path names. The file is not opened: see `sqlite_file`."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


@dataclass(slots=True)
class _Call:
    run: Callable[[sqlite3.Connection], Any]
    future: asyncio.Future[Any]
    durable: bool
    value: Any = None
    error: Exception | None = None

    def work(self, connection: sqlite3.Connection) -> None:
        self.value = self.run(connection)
        if isinstance(self.value, sqlite3.Cursor):
            # Let go in the caller's thread it would reset a statement that this thread may be running again.
            self.value = None
            message = "a cursor must not leave its thread: return rows"
            raise TypeError(message)

    def fail(self, connection: sqlite3.Connection, error: Exception) -> None:
        """Hand the error over, without what the frames of its traceback hold: there may be cursors among it."""
        link: BaseException | None = error
        while link is not None:
            traceback.clear_frames(link.__traceback__)
            link = link.__cause__ or link.__context__
        self.error = explained(connection, error)


_Calls = queue.Queue[_Call | None]
_Settle = Callable[[Sequence[_Call]], object]


class _Lane:
    """Threads, each with a connection of its own, that work off one bounded line of calls."""

    def __init__(
        self,
        name: str,
        threads: int,
        connect: Callable[[], sqlite3.Connection],
        serve: Callable[[sqlite3.Connection, _Calls, _Settle], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._name = name
        self._connect = connect
        self._serve = serve
        self._places = asyncio.Semaphore(MAX_WAITING)
        self._calls: _Calls = queue.Queue(MAX_WAITING + threads)
        self._closed = False
        self._size = threads
        self._threads: list[threading.Thread] = []

    async def start(self) -> None:
        for number in range(self._size):
            ready: concurrent.futures.Future[None] = concurrent.futures.Future()
            ready.set_running_or_notify_cancel()  # or a cancelled start would fail in the thread
            thread = threading.Thread(target=self._work, args=(ready,), name=f"{self._name}-{number}", daemon=True)
            thread.start()
            self._threads.append(thread)
            await asyncio.wrap_future(ready)

    async def call(self, run: Callable[[sqlite3.Connection], T], *, durable: bool = False) -> T:
        await self._places.acquire()
        if self._closed:
            self._places.release()
            raise StoreError("closed", "the database is closed: the process is stopping")
        call = _Call(run, self._loop.create_future(), durable)
        self._calls.put_nowait(call)
        value: T = await call.future
        return value

    async def close(self) -> None:
        self._closed = True
        for _ in self._threads:
            self._calls.put_nowait(None)
        for thread in self._threads:
            await asyncio.to_thread(thread.join)

    def _work(self, ready: concurrent.futures.Future[None]) -> None:
        try:
            connection = self._connect()
        except FacewireError as error:
            ready.set_exception(error)
            return
        with closing(connection):
            ready.set_result(None)
            self._serve(connection, self._calls, self._settle)

    def _settle(self, calls: Sequence[_Call]) -> None:
        self._loop.call_soon_threadsafe(self._finish, calls)

    def _finish(self, calls: Sequence[_Call]) -> None:
        for call in calls:
            self._places.release()
            if call.future.done():
                continue
            if call.error is None:
                call.future.set_result(call.value)
            else:
                call.future.set_exception(call.error)


def _serve_writes(connection: sqlite3.Connection, calls: _Calls, settle: _Settle) -> None:
    writer = _Writer(connection)
    next_shrink = 0.0
    while group := _next_group(calls):
        writer.commit(group)
        settle(group)
        del group
        if calls.empty() and time.monotonic() >= next_shrink:
            _shrink(connection)
            next_shrink = time.monotonic() + SHRINK_SECONDS


def _next_group(calls: _Calls) -> list[_Call]:
    first = calls.get()
    group = [] if first is None else [first]
    while group and len(group) < MAX_GROUP:
        try:
            call = calls.get_nowait()
        except queue.Empty:
            break
        if call is None:
            calls.put_nowait(None)
            break
        group.append(call)
    return group


class _Writer:
    """Commits groups of changes with as few statements as it takes: around each the thread gives up the interpreter."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._durable: bool | None = None

    def commit(self, group: Sequence[_Call]) -> None:
        try:
            self._wait_for_disk(durable=any(call.durable for call in group))
            self._connection.execute("BEGIN IMMEDIATE")
            self._apply(group)
            self._connection.execute("COMMIT")
        except Exception as error:  # noqa: BLE001 - handed to every caller of the group
            _roll_back(self._connection)
            for call in group:
                call.fail(self._connection, error)

    def _wait_for_disk(self, *, durable: bool) -> None:
        if durable is not self._durable:
            self._connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            self._durable = durable

    def _apply(self, group: Sequence[_Call]) -> None:
        if len(group) == 1:
            group[0].work(self._connection)
            return
        for call in group:
            self._apply_apart(call)

    def _apply_apart(self, call: _Call) -> None:
        """Do one of several changes; one that fails is taken back alone."""
        self._connection.execute("SAVEPOINT change")
        try:
            call.work(self._connection)
        except Exception as error:
            if not self._connection.in_transaction:  # a full disk can end the whole transaction
                raise
            self._connection.execute("ROLLBACK TO change")
            call.fail(self._connection, error)
        self._connection.execute("RELEASE change")


def _roll_back(connection: sqlite3.Connection) -> None:
    try:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
    except sqlite3.Error as error:  # the next call fails and tries it again
        _log.error("database_not_rolled_back", error=str(error))


def _shrink(connection: sqlite3.Connection) -> None:
    try:
        (free,) = connection.execute("PRAGMA freelist_count").fetchone()
        if free > SPARE_PAGES:
            # `execute` would stop after the first page
            connection.executescript(f"PRAGMA incremental_vacuum({min(SHRINK_PAGES, free - SPARE_PAGES)})")
    except sqlite3.Error as error:  # another process is writing, or the disk is full: tried again later
        _log.warning("database_not_shrunk", error=str(error))


def _serve_reads(connection: sqlite3.Connection, calls: _Calls, settle: _Settle) -> None:
    while (call := calls.get()) is not None:
        try:
            connection.execute("BEGIN")
            call.work(connection)
        except Exception as error:  # noqa: BLE001 - handed to the caller
            call.fail(connection, error)
        _roll_back(connection)  # a view left open would keep the log from being cut back
        settle([call])
        del call
