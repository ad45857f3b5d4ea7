"""A core with the component on it: the nucleus is a stand-in, the component its own process, SQS the emulator's."""

import asyncio
import base64
import io
import json
import os
import secrets
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from facewire.adapters.aws.sqs.queue import SqsQueue, SqsQueues
from facewire.domain.messages import DetectedFaces, RecognizedFaces
from facewire.runtime.settings import AwsSettings
from greengrass_nucleus import FakeNucleus, fake_nucleus
from mqtt_brokers import until

_READY_SECONDS = 40.0


@dataclass
class Core:
    """What a test has at hand; `environment` is what the nucleus would set beside its own."""

    nucleus: FakeNucleus
    queues: SqsQueues
    requests: SqsQueue
    responses: SqsQueue
    folder: Path
    environment: dict[str, str] = field(default_factory=dict)
    process: asyncio.subprocess.Process | None = None

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    async def start(self) -> None:
        """Start the component as the recipe does; it need not be ready when this returns."""
        variables = {**os.environ, **self.nucleus.environment, **self.environment}
        self.nucleus.states.clear()
        with (self.folder / "log").open("ab") as output:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "facewire_greengrass", stdout=output, stderr=output, env=variables
            )

    async def until_running(self) -> None:
        assert self.process is not None
        process = self.process
        await until(lambda: "RUNNING" in self.nucleus.states or process.returncode is not None, _READY_SECONDS)
        assert process.returncode is None, self.log
        if self.nucleus.configuration.get("source", "ipc") == "ipc":
            await until(lambda: bool(self.nucleus.topics))

    async def stop(self) -> float:
        """Ask the component to stop; return the seconds it took."""
        assert self.process is not None
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(20):
            assert await self.process.wait() == 0, self.log
        return time.monotonic() - began

    async def ended(self) -> int:
        assert self.process is not None
        async with asyncio.timeout(_READY_SECONDS):
            return await self.process.wait()

    async def kill(self) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run the component while the block does."""
        await self.start()
        try:
            await self.until_running()
            yield
        finally:
            await self.kill()

    def published(self) -> dict[str, RecognizedFaces]:
        """Return what the component has published to local topics, by request."""
        answers = [RecognizedFaces.from_bytes(body) for _, body in self.nucleus.local]
        return {answer.request_id: answer for answer in answers}


@asynccontextmanager
async def core(folder: Path, endpoint: str, **configuration: Any) -> AsyncIterator[Core]:
    """Run nucleus and queues, with names of their own, while the block does; the component is not started yet."""
    name = secrets.token_hex(4)
    aws = AwsSettings.read(
        aws_endpoint_url=endpoint,
        request_queue=f"requests-{name}",
        response_queue=f"responses-{name}",
        aws_create_missing=True,
    )
    given = {
        "aws_endpoint_url": endpoint,
        "aws_create_missing": True,
        "request_queue": aws.request_queue,
        "response_queue": aws.response_queue,
        "data_dir": str(folder / "data"),
        "detector_threads": 1,
        **configuration,
    }
    async with fake_nucleus(folder / "ipc.sock", **given) as nucleus, SqsQueues.open(aws) as queues:
        own = Core(nucleus, queues, queues.queue(aws.request_queue), queues.queue(aws.response_queue), folder)
        try:
            yield own
        finally:
            await own.kill()


def faceless(number: int) -> bytes:
    """Return a picture without a face, its own for each number."""
    buffer = io.BytesIO()
    Image.new("RGB", (320, 240), (number % 256, number // 256, 90)).save(buffer, "JPEG")
    return buffer.getvalue()


def small(path: Path, pixels: int) -> bytes:
    """Return the picture as JPEG with a longest side of `pixels`."""
    with Image.open(path) as image:
        image.thumbnail((pixels, pixels))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def message(request_id: str, content: bytes) -> bytes:
    """Return a frame as devices send it."""
    return json.dumps({"request_id": request_id, "content": base64.b64encode(content).decode()}).encode()


async def detected(requests: SqsQueue, count: int, seconds: float = 30.0) -> dict[str, DetectedFaces]:
    """Return what came over the request queue, by request, once there are `count`."""
    found: dict[str, DetectedFaces] = {}
    try:
        async with asyncio.timeout(seconds):
            while len(found) < count:
                leases = await requests.receive(10, wait=1)
                found |= {each.request_id: each for each in (DetectedFaces.from_bytes(lease.body) for lease in leases)}
                await requests.acknowledge(leases)
    except TimeoutError:
        pytest.fail(f"{len(found)} of {count} came: {sorted(found)}")
    return found
