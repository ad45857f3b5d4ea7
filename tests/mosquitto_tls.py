"""The brokers of the containers, from the project's own mosquitto/*.conf, as child processes of a test."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from facewire.adapters.mqtt.certificate_folders import open_authority, prepare, write_private
from facewire.adapters.mqtt.connection import MqttConnection
from facewire.runtime.settings import MqttSettings
from mqtt_brokers import MOSQUITTO, RunningMosquitto, free_port

OPEN = MqttConnection.open
SHARED = ["$share/detectors/clients/+", "$share/detectors/uploads/+", "$share/detectors/enroll/+"]
ANSWERS = ["clients/+/results", "uploads/+/results"]
CONFIG = Path(__file__).resolve().parents[1] / "mosquitto"
SERVICES_PORT, DEVICES_PORT, DEV_PORT = 8883, 8884, 1883


class Installation:
    """CA, certificates and both brokers of one installation, all under `folder`, on ports of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.certs = folder / "certs"
        prepare(folder / "pki", self.certs)
        self.ports = {port: free_port() for port in (SERVICES_PORT, DEVICES_PORT, DEV_PORT)}

    @property
    def database(self) -> Path:
        """Where the broker keeps what it holds."""
        return self._data("mosquitto") / "mosquitto.db"

    def service(self, role: str) -> MqttSettings:
        """Return how a service reaches the broker."""
        own = self.certs / role
        return MqttSettings.read(
            mqtt_host="localhost",
            mqtt_port=self.ports[SERVICES_PORT],
            mqtt_ca_file=own / "ca.crt",
            mqtt_cert_file=own / "cert.pem",
            mqtt_key_file=own / "key.pem",
            mqtt_share_file=own / "share" if role == "detector" else None,
        )

    def device(self, name: str) -> MqttSettings:
        """Return how a device reaches the broker, with one file for everything."""
        bundle = self.folder / f"{name}.pem"
        if not bundle.exists():
            write_private(bundle, open_authority(self.folder / "pki").device_bundle(name))
        return self.with_files(bundle, bundle, bundle)

    def with_files(self, ca: Path, certificate: Path | None, key: Path | None) -> MqttSettings:
        return MqttSettings.read(
            mqtt_host="127.0.0.1",
            mqtt_port=self.ports[DEVICES_PORT],
            mqtt_ca_file=ca,
            mqtt_cert_file=certificate,
            mqtt_key_file=key,
        )

    def anonymous(self) -> MqttSettings:
        """Return how anybody reaches the broker of the profile dev."""
        return MqttSettings.read(mqtt_port=self.ports[DEV_PORT])

    @asynccontextmanager
    async def broker(self) -> AsyncIterator[RunningMosquitto]:
        async with self._running("mosquitto.conf", role="mosquitto", port=SERVICES_PORT) as broker:
            yield broker

    @asynccontextmanager
    async def dev_broker(self) -> AsyncIterator[RunningMosquitto]:
        async with self._running("dev.conf", role="dev", port=DEV_PORT) as broker:
            yield broker

    @asynccontextmanager
    async def _running(self, name: str, *, role: str, port: int) -> AsyncIterator[RunningMosquitto]:
        if MOSQUITTO is None:
            pytest.skip("mosquitto is not installed")
        broker = RunningMosquitto(self._adapted(name, role), self.ports[port])
        await broker.bring_back()
        try:
            yield broker
        finally:
            await broker.kill()

    def _data(self, role: str) -> Path:
        return self.folder / f"data-{role}"

    def _adapted(self, name: str, role: str) -> Path:
        """Write the project's file with folders and ports of the test, and nothing else changed."""
        data = self._data(role)
        data.mkdir()
        text = (CONFIG / name).read_text()
        folders = {"/mosquitto/config": CONFIG, "/mosquitto/certs": self.certs / role, "/mosquitto/data": data}
        for folder, own_folder in folders.items():
            text = text.replace(folder, str(own_folder))
        for port, own_port in self.ports.items():
            text = text.replace(f"listener {port}\n", f"listener {own_port} 127.0.0.1\n")
            text = text.replace(f"address mosquitto:{port}\n", f"address localhost:{own_port}\n")
        config = self.folder / name
        # Started by root, mosquitto becomes a user that cannot read the test's folder.
        config.write_text(f"user root\n{text}" if os.getuid() == 0 else text)
        return config


async def connected(*connections: MqttConnection) -> None:
    async with asyncio.timeout(20):
        for connection in connections:
            await connection.wait_connected()


async def received(connection: MqttConnection, until_payload: bytes) -> list[str]:
    """Acknowledge what comes until the marker is there; return the topics of everything before it."""
    topics: list[str] = []
    async with asyncio.timeout(20):
        async for message in connection.messages():
            message.acknowledge()
            if message.payload == until_payload:
                return topics
            topics.append(message.topic)
    raise AssertionError


async def payloads(connection: MqttConnection, count: int) -> list[bytes]:
    found: list[bytes] = []
    async with asyncio.timeout(20):
        async for message in connection.messages():
            message.acknowledge()
            found.append(message.payload)
            if len(found) == count:
                return found
    raise AssertionError


async def publish_all(connection: MqttConnection, topic: str, bodies: Iterable[bytes]) -> None:
    async with asyncio.TaskGroup() as group:
        for body in bodies:
            group.create_task(connection.publish(topic, body), name="publish")
