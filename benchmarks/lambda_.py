"""Cold start, warm time and memory of the functions `detect` and `recognize`, beside the same written with torch.

Facewire's run under the real Lambda runtime interface emulator (make rie) with the real runtime client, and send what
they find to an SQS of a ministack of its own, which is in their times; torch's run in a bare process and send nothing.
Both have one core, as 1769 MB of AWS Lambda have, and FaceNet with the same random weights. A cold start is import,
model and first answer, memory the most that was in use; packages are as pip installs them, without weights, so
torch's has CUDA in it: what an image takes beside its base. Needs the reference environment (make reference):
FACEWIRE_REFERENCE_PYTHON names its interpreter, else .venv-reference/bin/python is used.
"""

import argparse
import base64
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _machine import describe
from _system import free_port
from botocore.session import get_session  # type: ignore[import-untyped]
from embedding import build
from rich.console import Console
from rich.table import Table
from sqs import emulator

ROOT = Path(__file__).resolve().parents[1]
RIE = ROOT / "build" / "aws-lambda-rie"
FUNCTIONS = ROOT / "deploy" / "aws_lambda"
TORCH_FUNCTIONS = Path(__file__).with_name("_torch_functions.py")
PACKAGES = Path(__file__).with_name("_packages.py")
PICTURE = ROOT / "samples" / "eileen_collins.jpg"
INVOCATION = "/2015-03-31/functions/function/invocations"
START_SECONDS = 60.0
#: Messages that one event of the request queue brings.
BATCHES = (1, 8)

Event = dict[str, Any]
Invoke = Callable[[Event], Any]


@dataclass(frozen=True)
class Figures:
    """Of one function: seconds until the first answer, milliseconds of the others by event, MiB."""

    cold: float
    warm: Sequence[float]
    memory: float


@contextmanager
def facewire(handler: str, environment: Mapping[str, str]) -> Iterator[tuple[Invoke, Callable[[], float]]]:
    """Run a function under the runtime interface emulator; yield how to call it, and its peak memory."""
    address, internal = (f"127.0.0.1:{free_port()}" for _ in range(2))
    addresses = ["--runtime-interface-emulator-address", address, "--runtime-api-address", internal]
    path = os.pathsep.join([str(FUNCTIONS), *filter(None, sys.path)])
    with tempfile.TemporaryFile() as log:
        child = subprocess.Popen(
            [RIE, *addresses, sys.executable, "-m", "awslambdaric", handler],
            env={**os.environ, "PYTHONPATH": path, **environment},
            stdout=log,
            stderr=log,
        )
        wait_for_port(address)

        def invoke(event: Event) -> Any:
            request = urllib.request.Request(f"http://{address}{INVOCATION}", json.dumps(event).encode())
            with urllib.request.urlopen(request, timeout=START_SECONDS) as response:  # noqa: S310
                return json.load(response)

        try:
            yield invoke, lambda: peak_memory(only_child(child.pid))
        finally:
            child.terminate()
            child.wait()


@contextmanager
def torch(python: Path, *arguments: str) -> Iterator[tuple[Invoke, Callable[[], float]]]:
    """Run a function of torch; yield how to call it, and its peak memory."""
    command = [str(python), str(TORCH_FUNCTIONS), *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin
        assert process.stdout
        stdin, stdout = process.stdin, process.stdout

        def invoke(event: Event) -> Any:
            print(json.dumps(event), file=stdin, flush=True)
            return json.loads(stdout.readline())

        yield invoke, lambda: peak_memory(process.pid)
        stdin.close()


def measure(side: Any, events: Sequence[Event], rounds: int) -> Figures:
    """Return the figures of the function that the context manager `side` runs."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # of this process and of what it starts from here on
    started = time.perf_counter()
    with side as (invoke, memory):
        check(invoke(events[0]))
        cold = time.perf_counter() - started
        warm = []
        for event in events:
            times = []
            for _ in range(rounds):
                started = time.perf_counter()
                check(invoke(event))
                times.append(time.perf_counter() - started)
            warm.append(statistics.median(times) * 1e3)
        return Figures(cold, warm, memory())


def check(result: Any) -> None:
    """See that the function did its work."""
    if not result or "errorType" in result or result.get("batchItemFailures") or result.get("statusCode", 200) != 200:
        sys.exit(f"the function failed: {result}")


def wait_for_port(address: str) -> None:
    """Return as soon as somebody listens there."""
    host, _, port = address.partition(":")
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        with suppress(OSError), socket.create_connection((host, int(port)), timeout=1):
            return
        time.sleep(0.005)
    sys.exit(f"nothing listens on {address}")


def only_child(pid: int) -> int:
    """Return the process that the emulator runs the function in."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    [child] = [child for children in tasks for child in children.read_text().split()]
    return int(child)


def peak_memory(pid: int) -> float:
    """Return the most that the process had in memory, in MiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024


def posted() -> Event:
    """Return a request to the Function URL with a portrait."""
    content = base64.b64encode(PICTURE.read_bytes()).decode()
    body = json.dumps({"request_id": "r1", "filename": PICTURE.name, "content": content})
    return {"requestContext": {"http": {"method": "POST"}}, "body": body, "isBase64Encoded": False}


def batch(body: str, size: int) -> Event:
    """Return an event of the request queue."""
    attributes = {"ApproximateReceiveCount": "1"}
    records = [
        {"messageId": f"m{number}", "receiptHandle": "none", "body": body, "attributes": attributes}
        for number in range(size)
    ]
    return {"Records": records}


def columns(folder: Path, python: Path, rounds: int) -> dict[str, Figures]:
    """Return the figures of both functions on both sides."""
    weights, model = build(folder)
    with emulator() as endpoint:
        keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
        settings = {"FACEWIRE_AWS_ENDPOINT_URL": endpoint, "FACEWIRE_AWS_CREATE_MISSING": "true", **keys}
        settings |= {"FACEWIRE_MODEL_FILE": str(model)}
        own = {"detect": measure(facewire("fd_lambda.lambda_handler", settings), [posted()], rounds)}
        session = get_session().create_client("sqs", "us-east-1", endpoint_url=endpoint, **boto_keys(keys))
        url = session.get_queue_url(QueueName="facewire-requests")["QueueUrl"]
        body = session.receive_message(QueueUrl=url)["Messages"][0]["Body"]
        events = [batch(body, size) for size in BATCHES]
        own["recognize"] = measure(facewire("fr_lambda.lambda_handler", settings), events, rounds)
    with torch(python, "detect") as (invoke, _):
        crop = json.dumps(invoke(posted()))
    events = [batch(crop, size) for size in BATCHES]
    return {
        "detect, torch": measure(torch(python, "detect"), [posted()], rounds),
        "detect, facewire": own["detect"],
        "recognize, torch": measure(torch(python, "recognize", str(weights)), events, rounds),
        "recognize, facewire": own["recognize"],
    }


def boto_keys(keys: Mapping[str, str]) -> dict[str, str]:
    """Return the credentials as a client's arguments."""
    return {name.lower(): value for name, value in keys.items()}


def packages(python: Path, *needed: str) -> str:
    """Return how many MB these packages and all that they need take."""
    return subprocess.run(
        [str(python), str(PACKAGES), *needed], check=True, capture_output=True, text=True
    ).stdout.strip()


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    rounds = parser.parse_args().rounds
    python = Path(os.environ.get("FACEWIRE_REFERENCE_PYTHON", ROOT / ".venv-reference" / "bin" / "python"))
    with tempfile.TemporaryDirectory() as folder:
        found = columns(Path(folder), python, rounds)
    table = Table("", *found, title=describe(["onnxruntime", "awslambdaric"]))
    table.caption = f"one core; warm: medians of {rounds} calls"
    table.add_row("cold start, s", *(f"{figures.cold:.2f}" for figures in found.values()))
    for place, size in enumerate(BATCHES):
        values = [figures.warm[place] if place < len(figures.warm) else None for figures in found.values()]
        table.add_row(f"warm, ms, {size} at a time", *("" if value is None else f"{value:.1f}" for value in values))
    table.add_row("memory, MiB", *(f"{figures.memory:.0f}" for figures in found.values()))
    sizes = packages(python, "torch", "facenet-pytorch"), packages(Path(sys.executable), "facewire[lambda]")
    table.add_row("packages, MB", *sizes, *sizes)
    Console().print(table)


if __name__ == "__main__":
    main()
