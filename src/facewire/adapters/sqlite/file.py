"""Opening a Facewire database file: its mode, its pragmas, its tables, and what SQLite's errors mean."""

import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

from facewire.adapters.sqlite.schema import STEPS
from facewire.domain.errors import StoreError

#: How long to wait for another process that is writing.
BUSY_SECONDS = 15.0
#: The default of SQLite since 3.12; 8 and 16 KiB were no faster, with pictures in the queues either.
PAGE_BYTES = 4096
#: The log is cut back to this when it has grown beyond.
WAL_BYTES = 32 * 1024 * 1024

_CODES = {
    sqlite3.SQLITE_FULL: ("disk_full", "the disk or the file's size limit is reached: free some space"),
    sqlite3.SQLITE_BUSY: ("busy", f"another process has been writing for {BUSY_SECONDS:.0f} s: try again"),
    sqlite3.SQLITE_READONLY: ("unwritable", "it cannot be written to: check its owner and mode"),
    sqlite3.SQLITE_CANTOPEN: ("unwritable", "it cannot be opened: check the owner and mode of file and folder"),
    sqlite3.SQLITE_PERM: ("unwritable", "it cannot be opened: check its owner and mode"),
    sqlite3.SQLITE_NOTADB: ("not_a_database", "it is not an SQLite database: choose another file"),
    sqlite3.SQLITE_CORRUPT: ("corrupt", "the file is damaged: restore it from a backup"),
    sqlite3.SQLITE_IOERR: ("io_error", "the disk failed to read or write: check it"),
}


def explained(connection: sqlite3.Connection, error: Exception) -> Exception:
    """Return the StoreError for an SQLite error on `connection`; any other error as it is."""
    if not isinstance(error, sqlite3.Error):
        return error
    return _store_error(_path(connection), error)


def _path(connection: sqlite3.Connection) -> Path:
    (_, _, path) = connection.execute("PRAGMA database_list").fetchone()
    return Path(path)


def _store_error(path: Path, error: sqlite3.Error) -> StoreError:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    name, advice = _CODES.get(code, ("sqlite", str(error)))
    explained = StoreError(name, f"{path}: {advice}")
    explained.__cause__ = error
    return explained


def open_writer(path: Path) -> sqlite3.Connection:
    """Return the connection that may write, the file made and its tables up to date; StoreError where it cannot be."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _make_private(path)
    except OSError as error:
        detail = f"{path}: {error.strerror}: choose a folder that this user may write to"
        raise StoreError("unwritable", detail) from error
    return _connect(path, _prepare)


def _make_private(path: Path) -> None:
    """Make the file before SQLite does; its log files get the same mode.

    An existing file is not opened here: closing it again would drop the locks that SQLite holds on it in this process.
    """
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        if path.stat().st_mode & 0o077:
            path.chmod(0o600)


def open_reader(path: Path) -> sqlite3.Connection:
    """Return a connection that only reads the file of an earlier `open_writer`."""
    return _connect(path, lambda connection: connection.execute("PRAGMA query_only = ON"))


def _connect(path: Path, prepare: Callable[[sqlite3.Connection], object]) -> sqlite3.Connection:
    try:
        connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
    except sqlite3.Error as error:
        raise _store_error(path, error) from error
    try:
        prepare(connection)
    except BaseException as error:
        connection.close()
        if isinstance(error, sqlite3.Error):
            raise _store_error(path, error) from error
        raise
    return connection


def _prepare(connection: sqlite3.Connection) -> None:
    for pragma in (
        f"page_size = {PAGE_BYTES}",
        "auto_vacuum = INCREMENTAL",
        "journal_mode = WAL",
        "synchronous = FULL",
        "secure_delete = OFF",  # Debian's default is ON, and writes each picture that leaves a queue once more as zeros
        "cache_size = -16000",
        "foreign_keys = ON",
        f"journal_size_limit = {WAL_BYTES}",
    ):
        connection.execute(f"PRAGMA {pragma}").fetchall()
    connection.execute("BEGIN IMMEDIATE")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > len(STEPS):
        detail = f"{_path(connection)}: it is of version {version}, known are {len(STEPS)}: use a newer Facewire"
        raise StoreError("newer_schema", detail)
    for number, step in enumerate(STEPS[version:], start=version + 1):
        for statement in _statements(step):
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {number}")
    connection.execute("COMMIT")


def _statements(script: str) -> Iterator[str]:
    """Yield the statements one by one: `executescript` would end the transaction."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
