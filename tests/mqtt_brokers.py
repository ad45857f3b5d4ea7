"""Brokers that tests start, kill and start again: the embedded one, and mosquitto as a child process."""

import asyncio
import os
import shutil
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

import pytest

from facewire.runtime.settings import MqttSettings
from facewire_standalone.broker import EmbeddedBroker, embedded_broker

Kind = Literal["embedded", "mosquitto"]
KINDS: tuple[Kind, ...] = ("embedded", "mosquitto")
MOSQUITTO = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


class RunningBroker:
    """A broker of either kind. `keeps` tells whether sessions and messages outlive its process."""

    def __init__(self, settings: MqttSettings, *, keeps: bool) -> None:
        self.settings = settings
        self.keeps = keeps

    async def kill(self) -> None:
        """Kill the broker process; it comes back, at once or with `bring_back`."""
        raise NotImplementedError

    async def bring_back(self) -> None:
        """Return once the broker accepts connections again."""
        await until_open(self.settings.mqtt_port)


class RunningEmbeddedBroker(RunningBroker):
    def __init__(self, broker: EmbeddedBroker) -> None:
        super().__init__(MqttSettings.read(mqtt_port=broker.port), keeps=False)
        self._broker = broker

    async def kill(self) -> None:
        os.kill(self._broker.pid, signal.SIGKILL)
        await until(lambda: not _is_open(self._broker.inner_port))


class RunningMosquitto(RunningBroker):
    def __init__(self, config: Path, port: int) -> None:
        super().__init__(MqttSettings.read(mqtt_port=port), keeps=True)
        self._config = config
        self.process: asyncio.subprocess.Process | None = None

    async def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        await self.process.wait()

    async def stop(self) -> None:
        assert self.process is not None
        self.process.terminate()
        await self.process.wait()

    async def bring_back(self) -> None:
        assert MOSQUITTO is not None
        quiet = asyncio.subprocess.DEVNULL
        self.process = await asyncio.create_subprocess_exec(
            MOSQUITTO, "-c", str(self._config), stdout=quiet, stderr=quiet
        )
        await until_open(self.settings.mqtt_port)


@asynccontextmanager
async def running_broker(kind: Kind, folder: Path) -> AsyncIterator[RunningBroker]:
    """Run a broker of that kind on a free port; skips the test where mosquitto is not installed."""
    if kind == "embedded":
        async with embedded_broker(port=0) as broker:
            yield RunningEmbeddedBroker(broker)
        return
    async with running_mosquitto(folder, free_port(), "allow_anonymous true\n") as mosquitto:
        yield mosquitto


@asynccontextmanager
async def running_mosquitto(folder: Path, port: int, more: str) -> AsyncIterator[RunningMosquitto]:
    if MOSQUITTO is None:
        pytest.skip("mosquitto is not installed")
    config = folder / "mosquitto.conf"
    # What is acknowledged to a publisher is on the disk when mosquitto is killed.
    config.write_text(
        f"listener {port} 127.0.0.1\npersistence true\npersistence_location {folder}/\nautosave_interval 1\n"
        f"autosave_on_changes true\nmax_queued_messages 0\nmax_packet_size {16 * 1024 * 1024}\nlog_dest none\n{more}"
    )
    if os.getuid() == 0:
        config.write_text(f"user root\n{config.read_text()}")
    broker = RunningMosquitto(config, port)
    await broker.bring_back()
    try:
        yield broker
    finally:
        await broker.kill()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def until(happened: Callable[[], bool], seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not happened():  # noqa: ASYNC110 - told by no event
            await asyncio.sleep(0.01)


async def until_open(port: int) -> None:
    await until(lambda: _is_open(port))


def _is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
