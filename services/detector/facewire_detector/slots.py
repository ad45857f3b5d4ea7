"""Slots: each detector on one broker holds a number, and with it an MQTT session that outlives its process.

A broker goes on dealing messages of a shared subscription to the persistent session of a member that has died, and
drops them where no member is subscribed. So a session belongs to a slot and not to a process: `detector-<k>`, held by
whoever holds the lock on `detector-<k>.lock` in the folder that all detectors share. The kernel ends a lock with its
process, however that dies; a lock file that nobody holds means a session that somebody has to look after.
"""

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import IO

from facewire.domain.errors import SettingsError

_LOCK_FILE = re.compile(r"detector-([1-9][0-9]{0,5})\.lock")
#: Stands in the lock file of a detector whose session holds the subscriptions.
_SUBSCRIBED = "subscribed"


@dataclass(frozen=True, slots=True)
class Slot:
    """A slot that is held: its number, its lock file, and the open file that holds the lock."""

    number: int
    folder: Path
    lock: IO[str]

    @property
    def identifier(self) -> str:
        """The MQTT identifier of the session."""
        return f"detector-{self.number}"

    def mark(self, *, subscribed: bool) -> None:
        """Say whether the session takes its share of what is published."""
        self.lock.seek(0)
        self.lock.truncate()
        self.lock.write(_SUBSCRIBED if subscribed else "")
        self.lock.flush()

    def may_leave(self) -> bool:
        """Return whether another detector that runs is subscribed; this one counts as such no more then.

        Of several that ask at the same time the last one has to stay: the broker would drop what comes for nobody.
        """
        with (self.folder / "leaving.lock").open("a") as turn:
            fcntl.flock(turn, fcntl.LOCK_EX)
            others = (_path(self.folder, number) for number in _numbers(self.folder) if number != self.number)
            if not any(_is_held(path) and path.read_text(encoding="ascii") == _SUBSCRIBED for path in others):
                return False
            self.mark(subscribed=False)
            return True

    def give_up(self) -> None:
        """Say that the session holds nothing and is dealt nothing any more; nobody has to look after it."""
        _path(self.folder, self.number).unlink()


@contextmanager
def lowest_free_slot(folder: Path) -> Iterator[Slot]:
    """Hold the lowest slot that is free while the block runs; SettingsError where the folder cannot be written."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        slot = next(slot for number in count(1) if (slot := _try_slot(folder, number, "a")) is not None)
    except OSError as error:
        detail = f"{folder} cannot be written: {error.strerror}: choose a folder that this user may write to"
        raise SettingsError("data_dir", detail) from error
    with slot.lock:
        yield slot


@contextmanager
def abandoned_slot(folder: Path) -> Iterator[Slot | None]:
    """Hold a slot that somebody left without giving it up, while the block runs; None where there is none.

    OSError where the folder cannot be read or written.
    """
    slots = (_try_slot(folder, number, "r+") for number in _numbers(folder))
    slot = next((slot for slot in slots if slot is not None), None)
    if slot is None:
        yield None
        return
    with slot.lock:
        yield slot


def _path(folder: Path, number: int) -> Path:
    return folder / f"detector-{number}.lock"


def _numbers(folder: Path) -> list[int]:
    return sorted(int(match[1]) for path in folder.iterdir() if (match := _LOCK_FILE.fullmatch(path.name)))


def _try_slot(folder: Path, number: int, mode: str) -> Slot | None:
    """Return the slot, held; None where another holds it or it is gone."""
    path = _path(folder, number)
    try:
        lock = path.open(mode, encoding="ascii")
    except FileNotFoundError:
        return None
    if not (_locked(lock) and _still_there(path, lock)):
        lock.close()
        return None
    slot = Slot(number, folder, lock)
    slot.mark(subscribed=False)
    return slot


def _is_held(path: Path) -> bool:
    try:
        with path.open(encoding="ascii") as lock:
            return not _locked(lock)
    except FileNotFoundError:
        return False


def _locked(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _still_there(path: Path, lock: IO[str]) -> bool:
    """Tell whether the locked file is the one that has the name: the holder before may just have removed it."""
    try:
        return os.path.samestat(path.stat(), os.fstat(lock.fileno()))
    except FileNotFoundError:
        return False
