"""The programs of examples/ do what they say, each as a process of its own."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from facewire_standalone.settings import StandaloneSettings
from facewire_standalone.system import System, running_system

EXAMPLES = Path(__file__).parents[2] / "examples"
LONGEST_CAMERA = 20


@pytest.fixture
async def system(tmp_path: Path) -> AsyncIterator[System]:
    async with running_system(StandaloneSettings.read(data_dir=tmp_path, port=0, mqtt_port=0)) as system:
        yield system


@asynccontextmanager
async def started(name: str, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run an example while the block runs."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(EXAMPLES / name), *arguments, stdout=asyncio.subprocess.PIPE
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def said_by(name: str, *arguments: str) -> str:
    async with asyncio.timeout(60), started(name, *arguments) as process:
        said, _ = await process.communicate()
    assert process.returncode == 0
    return said.decode()


async def line_of(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    async with asyncio.timeout(60):
        return (await process.stdout.readline()).decode().rstrip()


async def test_the_detector_as_a_library(samples: Path) -> None:
    said = await said_by("detect_faces.py", str(samples / "eileen_collins.jpg"), str(samples / "cat.jpg"))
    first, face, second = said.splitlines()
    assert first == "eileen_collins.jpg: 512 x 512 pixels, 1 faces"
    assert face.startswith("  180.0, 59.7 to 268.8, 173.3: 1.0000, nose at ")
    assert second == "cat.jpg: 451 x 300 pixels, 0 faces"


async def test_a_camera_and_a_consumer_of_its_results(system: System, samples: Path) -> None:
    async with started("watch_results.py", "--url", system.http_url) as consumer:
        assert await line_of(consumer) == "watching"
        place = ("--host", system.mqtt_host, "--port", str(system.mqtt_port), "--camera", "hall")
        said = await said_by("camera.py", str(samples / "grace_hopper.jpg"), *place)
        request_id, status, result = said.split()
        assert (status, result) == ("done", "Unknown")
        assert await line_of(consumer) == f"hall {request_id} Unknown"


async def test_a_consumer_outlives_the_gateway(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        async with running_system(StandaloneSettings.read(data_dir=tmp_path, port=0, mqtt_port=0)) as first:
            port = int(first.http_url.rpartition(":")[2])
            consumer = await stack.enter_async_context(started("watch_results.py", "--url", first.http_url))
            assert await line_of(consumer) == "watching"
        async with running_system(StandaloneSettings.read(data_dir=tmp_path, port=port, mqtt_port=0)):
            line = await line_of(consumer)
            while line.startswith("away"):
                line = await line_of(consumer)
            assert line == "watching"


def test_the_camera_has_twenty_lines() -> None:
    body = (EXAMPLES / "camera.py").read_text().partition("import aiomqtt\n")[2]
    assert len([line for line in body.splitlines() if line.strip()]) <= LONGEST_CAMERA
