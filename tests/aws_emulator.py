"""ministack, an emulator of AWS, as a child process of the tests; its state lives as long as it does."""

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

PROGRAM = Path(__file__).resolve().parents[1] / ".venv-ministack" / "bin" / "ministack"
REGION = "us-east-1"
_START_SECONDS = 30.0
_STOP_SECONDS = 10.0


def free_port() -> int:
    """Return a port nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextmanager
def ministack(log: Path, port: int | None = None) -> Iterator[str]:
    """Run ministack while the block does; yield its endpoint URL."""
    port = port or free_port()
    endpoint = f"http://127.0.0.1:{port}"
    environment = {"GATEWAY_PORT": str(port), "BIND_HOST": "127.0.0.1", "MINISTACK_HOST": "127.0.0.1"}
    with log.open("ab") as output:
        child = subprocess.Popen([PROGRAM], stdout=output, stderr=output, env={**os.environ, **environment})
        try:
            _wait_until_healthy(child, endpoint, log)
            yield endpoint
        finally:
            child.send_signal(signal.SIGTERM)
            try:
                child.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def _wait_until_healthy(child: "subprocess.Popen[bytes]", endpoint: str, log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if child.poll() is not None:
            pytest.fail(f"ministack ended with {child.returncode}: {log.read_text()}")
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{endpoint}/_localstack/health", timeout=1).is_success:
                return
        time.sleep(0.05)
    pytest.fail(f"ministack was not healthy within {_START_SECONDS} s: {log.read_text()}")
