"""A service's folder of data, which somebody has chosen by a setting."""

import fcntl
import os
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile

from facewire.adapters.sqlite.database import Database
from facewire.domain.errors import SettingsError, StoreError
from facewire.runtime.settings import LEAST_KEY_LENGTH


@asynccontextmanager
async def open_database(file: Path) -> AsyncIterator[Database]:
    """Open the database; SettingsError `data_dir` where that fails, since it is the folder that was chosen."""
    async with AsyncExitStack() as stack:
        try:
            database = await stack.enter_async_context(Database.open(file))
        except StoreError as error:
            raise SettingsError("data_dir", error.detail) from error
        yield database


def enroll_key(folder: Path, given: str | None = None) -> bytes:
    """Return the key of enrolments' proofs: what is `given`, else what `enroll.key` in `folder` holds.

    The file is made where it is missing, and kept: what the key has signed waits in queues over a restart. Gateway and
    recognizer share the folder, a detector never does. SettingsError where the file cannot be made or read.
    """
    if given is not None:
        return given.encode()
    path = folder / "enroll.key"
    try:
        if not path.exists():
            _make_key(path)
        key = path.read_bytes()
    except OSError as error:
        detail = f"data_dir: {path}: {error.strerror}: choose a folder that this user may write to"
        raise SettingsError("data_dir", f"{detail}, or set FACEWIRE_ENROLL_KEY") from error
    if len(key) < LEAST_KEY_LENGTH:
        detail = f"{path} has {len(key)} bytes, must have at least {LEAST_KEY_LENGTH}: delete it, a new one is made"
        raise SettingsError("enroll_key", detail)
    return key


def _make_key(path: Path) -> None:
    """Put the file in its place, whole and only once: a gateway and a recognizer may start at the same moment."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        if path.exists():
            return
        with NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            file.write(secrets.token_hex(32).encode())
            file.flush()
            os.fsync(file.fileno())
        Path(file.name).replace(path)
    finally:
        os.close(folder)
