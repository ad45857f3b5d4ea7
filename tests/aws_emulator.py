"""ministack, an emulator of AWS, as a child process of the tests; its state lives as long as it does."""

import contextlib
import os
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator, Mapping
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
def ministack(
    log: Path, port: int | None = None, *, settings: Mapping[str, str] | None = None, ca_file: Path | None = None
) -> Iterator[str]:
    """Run ministack while the block does; yield its endpoint URL, with TLS where the CA of its certificate is given."""
    port = port or free_port()
    endpoint = f"{'https' if ca_file else 'http'}://127.0.0.1:{port}"
    environment = {"GATEWAY_PORT": str(port), "BIND_HOST": "127.0.0.1", "MINISTACK_HOST": "127.0.0.1"}
    with log.open("ab") as output:
        every = {**os.environ, **environment, **(settings or {})}
        child = subprocess.Popen([PROGRAM], stdout=output, stderr=output, env=every)
        try:
            _wait_until_healthy(child, endpoint, log, ca_file)
            yield endpoint
        finally:
            child.send_signal(signal.SIGTERM)
            try:
                child.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def _wait_until_healthy(child: "subprocess.Popen[bytes]", endpoint: str, log: Path, ca_file: Path | None) -> None:
    deadline = time.monotonic() + _START_SECONDS
    trusted = ssl.create_default_context(cafile=ca_file)
    while time.monotonic() < deadline:
        if child.poll() is not None:
            pytest.fail(f"ministack ended with {child.returncode}: {log.read_text()}")
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{endpoint}/_localstack/health", timeout=1, verify=trusted).is_success:
                return
        time.sleep(0.05)
    pytest.fail(f"ministack was not healthy within {_START_SECONDS} s: {log.read_text()}")
