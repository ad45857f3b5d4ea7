"""`facewire up` as a child process on free ports, for the demo and for tests of the running system."""

import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

from facewire.domain.errors import FacewireError

_START_SECONDS = 60.0
_STOP_SECONDS = 20.0
_ADDRESS = re.compile(r"\b(https?|mqtts?)://\S+")


class ChildError(FacewireError):
    """The child process did not start."""

    stage: ClassVar[str] = "start"


@dataclass(frozen=True, slots=True)
class Child:
    """A running `facewire up` and where it listens."""

    process: subprocess.Popen[str]
    http_url: str
    mqtt_host: str
    mqtt_port: int
    log: Path

    def stop(self) -> int:
        """Ask the process to stop and return its exit code; it is killed if that takes longer than 20 s."""
        self.process.terminate()
        return wait_or_kill(self.process)


@contextmanager
def running_child(data_dir: Path, options: Sequence[str] = ()) -> Iterator[Child]:
    """Yield a `facewire up` on `data_dir` and free ports, ready to serve; stop it in the end.

    Raises ChildError with the end of the log if it is not ready within a minute. The log is beside the database.
    """
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    log = data_dir / "facewire.log"
    command = [sys.executable, "-m", "facewire_standalone", "up", "--data", str(data_dir)]
    command += ["--port", "0", "--mqtt-port", "0", *options]
    with log.open("a") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)  # noqa: S603 - our own
    try:
        addresses = _read_addresses(process, log)
        mqtt = urlsplit(addresses["mqtt"])
        yield Child(process, addresses["http"], mqtt.hostname or "", mqtt.port or 0, log)
    finally:
        process.terminate()
        wait_or_kill(process)
        if process.stdout is not None:
            process.stdout.close()


def wait_or_kill(process: subprocess.Popen[str]) -> int:
    """Return the exit code of a process that was asked to stop; kill it if it does not."""
    try:
        return process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def _read_addresses(process: subprocess.Popen[str], log: Path) -> dict[str, str]:
    """Read what the process prints until both addresses are there: it prints them when it is ready."""
    watchdog = threading.Timer(_START_SECONDS, process.kill)
    watchdog.start()
    addresses = dict[str, str]()
    try:
        for line in process.stdout or ():
            if address := _ADDRESS.search(line):
                addresses[address[1].removesuffix("s")] = address[0]
            if addresses.keys() >= {"http", "mqtt"}:
                return addresses
    finally:
        watchdog.cancel()
    process.wait()
    tail = " | ".join(log.read_text().splitlines()[-5:])
    raise ChildError("not_ready", f"facewire up ended with code {process.returncode} before it was ready: {tail}")
