"""A Facewire of its own for a benchmark: `facewire up` as a child process on free ports in a temporary folder."""

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

START_DEADLINE_SECONDS = 60
STOP_DEADLINE_SECONDS = 30


@dataclass(frozen=True)
class RunningFacewire:
    """Where the child process listens, and its process id."""

    http_port: int
    mqtt_port: int
    pid: int
    data: Path

    def rss_mib(self) -> float:
        """Return the resident memory of the process in MiB."""
        return _rss_mib(self.pid)

    def broker_rss_mib(self) -> float:
        """Return the resident memory of its child processes, the MQTT broker, in MiB."""
        children = Path(f"/proc/{self.pid}/task").glob("*/children")
        return sum(_rss_mib(int(child)) for file in children for child in file.read_text().split())


@contextlib.contextmanager
def facewire_up(**environment: str) -> Iterator[RunningFacewire]:
    """Run `facewire up`; leave when it is ready, stop it with SIGTERM."""
    http_port, mqtt_port = free_port(), free_port()
    with tempfile.TemporaryDirectory(prefix="facewire-bench-") as folder:
        command = [str(Path(sys.executable).parent / "facewire"), "up", "--data", folder]
        command += ["--port", str(http_port), "--mqtt-port", str(mqtt_port)]
        log = Path(folder) / "log"
        with log.open("wb") as output:
            settings = {"FACEWIRE_LOG_LEVEL": "warning", **environment}
            child = subprocess.Popen(command, stdout=output, stderr=output, env={**os.environ, **settings})
            try:
                _wait_until_ready(child, http_port, log)
                yield RunningFacewire(http_port, mqtt_port, child.pid, Path(folder))
            finally:
                child.send_signal(signal.SIGTERM)
                child.wait(STOP_DEADLINE_SECONDS)


def _rss_mib(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def free_port() -> int:
    """Return a port nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def _wait_until_ready(child: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_DEADLINE_SECONDS
    while time.monotonic() < deadline:
        if child.poll() is not None:
            raise RuntimeError(f"facewire up ended with {child.returncode}: {log.read_text()}")
        with contextlib.suppress(OSError):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
            connection.request("GET", "/readyz")
            if connection.getresponse().status == http.client.OK:
                return
        time.sleep(0.05)
    raise TimeoutError(f"facewire up was not ready within {START_DEADLINE_SECONDS} s: {log.read_text()}")


def enroll(system: RunningFacewire, person: str, image: bytes) -> None:
    """Enrol one face over HTTP."""
    connection = http.client.HTTPConnection("127.0.0.1", system.http_port, timeout=60)
    headers = {"Content-Type": "image/jpeg"}
    connection.request("POST", f"/v1/people/{person}/faces", body=image, headers=headers)
    response = connection.getresponse()
    body = response.read()
    if response.status != http.client.CREATED:
        raise RuntimeError(f"{person} was not enrolled: {json.loads(body)}")
