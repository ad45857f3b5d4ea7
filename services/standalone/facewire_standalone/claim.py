"""One process a data folder: two of them would answer every frame twice."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from facewire.domain.errors import SettingsError


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Hold `folder`, made if absent, for this process while the block runs. The claim ends with the process.

    SettingsError `data_dir` where the folder cannot be written or another process holds it.
    """
    path = folder / "facewire.lock"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = path.open("a+")
    except OSError as error:
        detail = f"{folder} cannot be written: {error.strerror}: choose another folder with --data"
        raise SettingsError("data_dir", detail) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            detail = f"{folder} is served by process {lock.read().strip()}: stop it or choose another with --data"
            raise SettingsError("data_dir", detail) from error
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield
