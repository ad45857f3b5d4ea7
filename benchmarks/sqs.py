"""Messages per second over SQS: sent, received and deleted through our queue, against the bare aiobotocore client.

Both take turns in one run, over clients of the same configuration, ten messages a call, so that the ratio is what the
queue costs. It runs against `--endpoint`, or a ministack of its own.
"""

import argparse
import asyncio
import os
import random
import socket
import string
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median
from typing import Any
from uuid import uuid4

from _machine import describe
from rich.console import Console
from rich.table import Table

from facewire.adapters.aws.provision import ensure_queue
from facewire.adapters.aws.sqs.queue import SqsQueue, SqsQueues
from facewire.runtime.settings import AwsSettings

MINISTACK = Path(__file__).resolve().parents[1] / ".venv-ministack" / "bin" / "ministack"
START_SECONDS = 30.0
BATCH = 10
#: Sizes of a message in bytes (an answer; a frame with a few faces), and how many go in one turn.
SIZES = {2_000: 2_000, 60_000: 600}
#: Through what one turn goes: sends ten bodies, and receives and deletes up to ten messages, returning their number.
Send = Callable[[Sequence[bytes]], Awaitable[None]]
Take = Callable[[], Awaitable[int]]


@contextmanager
def emulator() -> Iterator[str]:
    """Run ministack while the block does; yield its endpoint."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    environment = {"GATEWAY_PORT": f"{port}", "BIND_HOST": "127.0.0.1", "MINISTACK_HOST": "127.0.0.1"}
    with tempfile.TemporaryFile() as log:
        child = subprocess.Popen([MINISTACK], stdout=log, stderr=log, env={**os.environ, **environment})
        try:
            endpoint = f"http://127.0.0.1:{port}"
            wait_healthy(child, endpoint)
            yield endpoint
        finally:
            child.terminate()
            child.wait()


def wait_healthy(child: "subprocess.Popen[bytes]", endpoint: str) -> None:
    """Return as soon as the emulator answers."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and child.poll() is None:
        with suppress(OSError), urllib.request.urlopen(f"{endpoint}/_localstack/health", timeout=1):  # noqa: S310 - ours
            return
        time.sleep(0.05)
    raise SystemExit(f"{MINISTACK} did not start")


def through_queue(queue: SqsQueue) -> tuple[Send, Take]:
    """Return how our queue does it."""

    async def take() -> int:
        leases = await queue.receive(BATCH, wait=1)
        await queue.acknowledge(leases)
        return len(leases)

    return queue.send, take


async def through_client(calls: Any, polls: Any, name: str) -> tuple[Send, Take]:
    """Return how the bare client does it."""
    url = (await calls.get_queue_url(QueueName=name))["QueueUrl"]

    async def send(bodies: Sequence[bytes]) -> None:
        entries = [{"Id": f"{number}", "MessageBody": body.decode()} for number, body in enumerate(bodies)]
        await calls.send_message_batch(QueueUrl=url, Entries=entries)

    async def take() -> int:
        answer = await polls.receive_message(
            QueueUrl=url, MaxNumberOfMessages=BATCH, WaitTimeSeconds=1, MessageSystemAttributeNames=["All"]
        )
        messages = answer.get("Messages", [])
        entries = [{"Id": f"{n}", "ReceiptHandle": message["ReceiptHandle"]} for n, message in enumerate(messages)]
        if entries:
            await calls.delete_message_batch(QueueUrl=url, Entries=entries)
        return len(messages)

    return send, take


async def turn(way: tuple[Send, Take], bodies: Sequence[bytes], workers: int) -> float:
    """Send all bodies and receive and delete as many, with `workers` on each side; return messages per second."""
    send, take = way
    batches = iter([bodies[start : start + BATCH] for start in range(0, len(bodies), BATCH)])
    left = len(bodies)

    async def produce() -> None:
        for batch in batches:
            await send(batch)

    async def consume() -> None:
        nonlocal left
        while left > 0:
            taken = await take()
            left -= taken

    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(workers):
            group.create_task(produce())
            group.create_task(consume())
    return len(bodies) / (time.perf_counter() - started)


async def measure(
    settings: AwsSettings, size: int, messages: int, turns: int, workers: int
) -> list[tuple[float, float]]:
    """Return messages per second through queue and bare client, for each pair of turns."""
    bodies = ["".join(random.choices(string.ascii_letters, k=size)).encode() for _ in range(messages)]
    async with SqsQueues.open(settings) as queues:
        names = [f"bench-{uuid4().hex}" for _ in range(2)]
        for name in names:
            await ensure_queue(queues.calls, name)
        ours = through_queue(queues.queue(names[0]))
        bare = await through_client(queues.calls, queues.polls, names[1])
        for way in (ours, bare):
            await turn(way, bodies[:100], workers)
        pairs = []
        for number in range(turns):
            order = (ours, bare) if number % 2 else (bare, ours)
            rates = {id(way): await turn(way, bodies, workers) for way in order}
            pairs.append((rates[id(ours)], rates[id(bare)]))
        return pairs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--endpoint", default=os.environ.get("FACEWIRE_AWS_ENDPOINT_URL"))
    parser.add_argument("--turns", type=int, default=9, help="pairs of turns")
    parser.add_argument("--workers", type=int, default=4, help="senders, and as many receivers")
    options = parser.parse_args()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        os.environ.setdefault(name, "test")
    console = Console(width=110)
    console.print(describe(["aiobotocore"]))
    if options.endpoint:
        report(console, options, options.endpoint)
    else:
        with emulator() as endpoint:
            report(console, options, endpoint)


def report(console: Console, options: argparse.Namespace, endpoint: str) -> None:
    """Measure each size and print medians, and the median and range of the ratios of neighbouring turns."""
    table = Table("bytes", "queue, msg/s", "bare client, msg/s", "ratio", "lowest to highest", title=endpoint)
    settings = AwsSettings(aws_endpoint_url=endpoint)
    for size, messages in SIZES.items():
        pairs = asyncio.run(measure(settings, size, messages, options.turns, options.workers))
        ratios = sorted(ours / bare for ours, bare in pairs)
        rates = (f"{median(rate):.0f}" for rate in zip(*pairs, strict=True))
        table.add_row(f"{size:,}", *rates, f"{median(ratios):.2f}", f"{ratios[0]:.2f} to {ratios[-1]:.2f}")
    console.print(table)


if __name__ == "__main__":
    main()
