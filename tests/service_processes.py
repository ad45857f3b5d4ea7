"""Services that tests start as processes of their own, kill, and start again."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from facewire.adapters.aws.sqs.queue import SqsQueue
from facewire.domain.messages import RecognizedFaces
from mqtt_brokers import free_port

_READY_SECONDS = 60.0
_STOP_SECONDS = 20.0


@dataclass(slots=True)
class Service:
    """`python -m <module>`, told by the environment where everything is; its log is a file."""

    module: str
    environment: Mapping[str, str]
    log: Path
    port: int = field(default_factory=free_port)
    process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        variables = {**os.environ, **self.environment, "FACEWIRE_PROBE_PORT": str(self.port)}
        with self.log.open("ab") as output:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", self.module, stdout=output, stderr=output, env=variables
            )

    async def readiness(self) -> tuple[int, dict[str, str]]:
        """Return the status of /readyz (0 where nothing answers) and what it says of each dependency."""
        async with httpx.AsyncClient(timeout=5, trust_env=False) as client:
            try:
                response = await client.get(f"{self.url}/readyz")
            except httpx.TransportError:
                return 0, {}
        return response.status_code, response.json()["dependencies"]

    async def until_ready(self) -> None:
        assert self.process is not None
        try:
            async with asyncio.timeout(_READY_SECONDS):
                while (await self.readiness())[0] != 200:
                    if self.process.returncode is not None:
                        pytest.fail(f"{self.module} ended with {self.process.returncode}: {self.log.read_text()}")
                    await asyncio.sleep(0.05)
        except TimeoutError:
            pytest.fail(f"{self.module} is not ready: {await self.readiness()}: {self.log.read_text()}")

    async def stop(self) -> int:
        """Ask the process to stop; return its exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(_STOP_SECONDS):
            return await self.process.wait()

    async def kill(self) -> None:
        assert self.process is not None
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()


@asynccontextmanager
async def running_service(module: str, environment: Mapping[str, str], log: Path) -> AsyncIterator[Service]:
    """Run a service while the block does; it is ready when the block starts, and killed in the end."""
    service = Service(module, environment, log)
    await service.start()
    try:
        await service.until_ready()
        yield service
    finally:
        await service.kill()


async def answers_of(responses: SqsQueue, count: int, seconds: float = 60.0) -> dict[str, RecognizedFaces]:
    """Return the answers to `count` requests from the response queue; duplicates are taken too."""
    answers: dict[str, RecognizedFaces] = {}
    try:
        async with asyncio.timeout(seconds):
            while len(answers) < count:
                leases = await responses.receive(10, wait=1)
                read = [RecognizedFaces.from_bytes(lease.body) for lease in leases]
                answers |= {answer.request_id: answer for answer in read}
                await responses.acknowledge(leases)
    except TimeoutError:
        pytest.fail(f"{len(answers)} of {count} answers came: {sorted(answers)}")
    return answers
