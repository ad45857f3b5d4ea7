"""Slots: each detector on one broker holds a number, and with it an MQTT session that outlives its process.

A broker goes on dealing messages of a shared subscription to the persistent session of a member that has died. So a
session belongs to a slot and not to a process: `detector-<k>`, held by whoever holds the lock on `detector-<k>.lock` in
the folder that all replicas share. The kernel ends a lock with its process, however that dies; a lock file that nobody
holds means a session that somebody has to look after.
"""

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from facewire.errors import SettingsError

_LOCK_FILE = re.compile(r"detector-([1-9][0-9]{0,5})\.lock")


@dataclass(frozen=True, slots=True)
class Slot:
    """A slot that is held: its number, and its lock file."""

    number: int
    path: Path

    @property
    def identifier(self) -> str:
        """The MQTT identifier of the session."""
        return f"detector-{self.number}"

    def give_up(self) -> None:
        """Say that the session holds nothing and is dealt nothing any more; nobody has to look after it."""
        self.path.unlink()


@contextmanager
def lowest_free_slot(folder: Path) -> Iterator[Slot]:
    """Hold the lowest slot that is free while the block runs; SettingsError where the folder cannot be written."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        slot, lock = next(held for number in count(1) if (held := _try_slot(folder, number)) is not None)
    except OSError as error:
        detail = f"{folder} cannot be written: {error.strerror}: choose a folder that this user may write to"
        raise SettingsError("data_dir", detail) from error
    try:
        yield slot
    finally:
        os.close(lock)


@contextmanager
def abandoned_slot(folder: Path) -> Iterator[Slot | None]:
    """Hold a slot that somebody left without giving it up, while the block runs; None where there is none.

    OSError where the folder cannot be read or written.
    """
    numbers = sorted(int(match[1]) for path in folder.iterdir() if (match := _LOCK_FILE.fullmatch(path.name)))
    held = next((held for number in numbers if (held := _try_slot(folder, number, make=False)) is not None), None)
    if held is None:
        yield None
        return
    slot, lock = held
    try:
        yield slot
    finally:
        os.close(lock)


def _try_slot(folder: Path, number: int, *, make: bool = True) -> tuple[Slot, int] | None:
    """Return the slot with the descriptor that holds its lock, None where another holds it or it is gone."""
    path = folder / f"detector-{number}.lock"
    try:
        lock = os.open(path, os.O_RDWR | (os.O_CREAT if make else 0), 0o600)
    except FileNotFoundError:
        return None
    if _locked(lock) and _still_there(path, lock):
        return Slot(number, path), lock
    os.close(lock)
    return None


def _locked(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _still_there(path: Path, lock: int) -> bool:
    """Tell whether the locked file is the one that has the name: the holder before may just have removed it."""
    try:
        return os.path.samestat(path.stat(), os.fstat(lock))
    except FileNotFoundError:
        return False
