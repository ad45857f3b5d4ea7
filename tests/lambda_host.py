"""The functions as the Lambda runtime runs them: on the emulator of AWS, or under the real runtime interface emulator.

`make rie` puts that emulator where it is looked for.
"""

import contextlib
import io
import json
import os
import secrets
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from aws_emulator import free_port

ROOT = Path(__file__).resolve().parents[1]
FUNCTIONS = ROOT / "deploy" / "aws_lambda"
RIE = ROOT / "build" / "aws-lambda-rie"
#: That of the image.
ENTRYPOINT = ["python", "-m", "awslambdaric"]
_PATH = "/2015-03-31/functions/function/invocations"
_START_SECONDS = 30.0
_STOP_SECONDS = 10.0
_INVOKE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Runtime:
    """A function behind the runtime interface emulator, with what it has logged."""

    url: str
    log: Path
    container: str | None = None

    def invoke(self, event: Any) -> Any:
        """Return the function's result, or what the runtime says of its error."""
        return httpx.post(self.url, json=event, timeout=_INVOKE_SECONDS).json()

    def lines(self) -> list[dict[str, Any]]:
        """Return the JSON lines of the log: our own log and metrics."""
        found = []
        for line in self.log.read_text().splitlines():
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
        return [line for line in found if isinstance(line, dict)]


@contextmanager
def runtime(handler: str, environment: Mapping[str, str], log: Path) -> Iterator[Runtime]:
    """Run `handler` under the real runtime interface emulator and the real runtime client."""
    if not RIE.is_file():
        pytest.skip("needs the runtime interface emulator: make rie")
    address, internal = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    addresses = ["--runtime-interface-emulator-address", address, "--runtime-api-address", internal]
    command = [str(RIE), *addresses, sys.executable, "-m", "awslambdaric", handler]
    with log.open("wb") as output:
        child = subprocess.Popen(
            command, stdout=output, stderr=output, env=host_environment(environment), start_new_session=True
        )
        try:
            _wait_until_listening(child, address, log)
            yield Runtime(f"http://{address}{_PATH}", log)
        finally:
            _end(child)


@contextmanager
def container(image: str, handler: str, environment: Mapping[str, str], log: Path) -> Iterator[Runtime]:
    """Run the function's image under the emulator, confined as AWS Lambda confines it: nothing can be written but /tmp.

    It shares this machine's network, to reach the emulator of AWS.
    """
    if not RIE.is_file():
        pytest.skip("needs the runtime interface emulator: make rie")
    address, name = f"127.0.0.1:{free_port()}", f"facewire-lambda-{secrets.token_hex(4)}"
    confined = ["--read-only", "--tmpfs", "/tmp", "--user", "993:990", "--cap-drop", "ALL", "--memory", "1769m"]  # noqa: S108
    emulator = ["--volume", f"{RIE}:/aws-lambda-rie:ro", "--entrypoint", "/aws-lambda-rie", "--network", "host"]
    told = [word for pair in environment.items() for word in ("--env", "=".join(pair))]
    addresses = ["--runtime-interface-emulator-address", address, "--runtime-api-address", f"127.0.0.1:{free_port()}"]
    command = ["docker", "run", "--rm", "--name", name, *confined, *emulator, *told, image, *addresses]
    with log.open("wb") as output:
        child = subprocess.Popen([*command, *ENTRYPOINT, handler], stdout=output, stderr=output)
        try:
            _wait_until_listening(child, address, log)
            yield Runtime(f"http://{address}{_PATH}", log, name)
        finally:
            subprocess.run(["docker", "rm", "--force", name], check=False, capture_output=True)
            child.wait(_STOP_SECONDS)


def host_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a function on this machine: ours without settings, and `environment`."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("FACEWIRE_")}
    return {**ours, "PYTHONPATH": python_path(), "AWS_EC2_METADATA_DISABLED": "true", **environment}


def python_path() -> str:
    """Return where a Python that is not ours finds the functions, the project and what it stands on."""
    return os.pathsep.join(dict.fromkeys([str(FUNCTIONS), *filter(None, sys.path)]))


def code() -> bytes:
    """Return the archive of a function: the modules that earlier deployments name."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as files:
        for name in ("fd_lambda.py", "fr_lambda.py"):
            files.write(FUNCTIONS / name, name)
    return archive.getvalue()


def _wait_until_listening(child: "subprocess.Popen[bytes]", address: str, log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if child.poll() is not None:
            pytest.fail(f"the runtime interface emulator ended with {child.returncode}: {log.read_text()}")
        with contextlib.suppress(httpx.TransportError):
            httpx.get(f"http://{address}/", timeout=1)
            return
        time.sleep(0.02)
    pytest.fail(f"the runtime interface emulator did not listen within {_START_SECONDS} s: {log.read_text()}")


def _end(child: "subprocess.Popen[bytes]") -> None:
    """End the emulator and the runtime that it started, which outlives it otherwise."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGTERM)
    try:
        child.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
