"""What the system acknowledges to cameras while it starts and stops is kept: nothing falls between broker and inbox."""

import asyncio
import json
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiomqtt
import pytest

from facewire.adapters.sqlite.database import Database
from facewire.adapters.sqlite.results import SqliteResultStore
from facewire_standalone.settings import StandaloneSettings
from facewire_standalone.system import running_system
from mqtt_brokers import free_port, until

#: Of no picture: the detector is done with it at once.
CONTENT = b64encode(b"\xff\xd8\xff" + bytes(30_000)).decode()


def settings_for(folder: Path, mqtt_port: int) -> StandaloneSettings:
    return StandaloneSettings.read(data_dir=folder, port=0, mqtt_port=mqtt_port, drain_seconds=20)


class Flood:
    """Cameras that connect whenever they can, publish all the time, and note what was acknowledged to them."""

    def __init__(self, port: int, cameras: int = 4) -> None:
        self.port = port
        self._cameras = cameras
        self.acknowledged: list[str] = []

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Publish while the block runs."""
        async with asyncio.TaskGroup() as tasks:
            cameras = [tasks.create_task(self._send(f"c{number}")) for number in range(self._cameras)]
            yield
            for camera in cameras:
                camera.cancel()

    async def until_acknowledged(self, count: int) -> None:
        """Return once so many frames are acknowledged in all."""
        await until(lambda: len(self.acknowledged) >= count)

    async def _send(self, camera: str) -> None:
        number = 0
        while True:
            try:
                async with aiomqtt.Client("127.0.0.1", self.port, timeout=60) as client:
                    while True:
                        number += 1
                        request_id = f"{camera}-{number}"
                        frame = json.dumps({"request_id": request_id, "content": CONTENT})
                        await client.publish(f"clients/{camera}", frame, qos=1, timeout=2)
                        self.acknowledged.append(request_id)
            except aiomqtt.MqttError:
                await asyncio.sleep(0)


async def lost_of(acknowledged: list[str], folder: Path) -> list[str]:
    """Return the requests that the database knows nothing of."""
    async with Database.open(folder / "facewire.db") as database:
        results = SqliteResultStore(database, id_window_seconds=600)
        return [request_id for request_id in acknowledged if await results.get(request_id) is None]


@pytest.fixture
def flood() -> Flood:
    return Flood(free_port())


async def test_what_a_camera_has_a_puback_for_before_the_stop_is_in_the_inbox(tmp_path: Path, flood: Flood) -> None:
    async with asyncio.timeout(120), flood.running(), running_system(settings_for(tmp_path, flood.port)) as system:
        before = len(flood.acknowledged)
        await flood.until_acknowledged(before + 200)
        system.stop.set()
    assert await lost_of(flood.acknowledged[before:], tmp_path) == []


async def test_what_a_camera_has_a_puback_for_during_the_start_is_in_the_inbox(tmp_path: Path, flood: Flood) -> None:
    async with asyncio.timeout(120), flood.running():
        for wanted in (20, 40, 60):
            async with running_system(settings_for(tmp_path, flood.port)):
                await flood.until_acknowledged(wanted)
    assert await lost_of(flood.acknowledged, tmp_path) == []
