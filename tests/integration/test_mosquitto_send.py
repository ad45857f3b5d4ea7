"""`facewire send --mqtt --bundle` against the broker of the containers, with a stand-in for the services."""

import asyncio
import json
import sys
from pathlib import Path

import pytest

from facewire.adapters.mqtt.connection import MqttConnection
from facewire.domain.messages import NO_FACE, RecognizedFaces
from facewire.runtime.background import background
from mosquitto_tls import OPEN, SHARED, Installation, connected

pytestmark = pytest.mark.usefixtures("mosquitto")


async def answer_everything(detector: MqttConnection, gateway: MqttConnection) -> None:
    async for message in detector.messages():
        frame = json.loads(message.payload)
        answer = RecognizedFaces(request_id=frame["request_id"], status="done", result=NO_FACE, faces=())
        await gateway.publish(f"{message.topic}/results", answer.to_bytes())
        message.acknowledge()


async def send(*arguments: object) -> tuple[int | None, str, str]:
    pipe = asyncio.subprocess.PIPE
    command = (sys.executable, "-m", "facewire_standalone", "send", "--mqtt", *map(str, arguments))
    sender = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe)
    async with asyncio.timeout(60):
        said, complained = await sender.communicate()
    return sender.returncode, said.decode(), complained.decode()


async def test_a_device_sends_with_the_one_file_it_was_given(installation: Installation, samples: Path) -> None:
    door = installation.device("Haustür 1")
    broker = ("--bundle", door.mqtt_cert_file, "--mqtt-host", "localhost", "--mqtt-port", door.mqtt_port)
    async with (
        OPEN(installation.service("detector"), identifier="detector-0", subscriptions=SHARED) as detector,
        OPEN(installation.service("gateway")) as gateway,
        background(answer_everything(detector, gateway), name="answers"),
    ):
        await connected(detector, gateway)
        code, said, complained = await send(*broker, samples / "cat.jpg")
    assert (code, complained) == (0, "")
    assert said.startswith("cat.jpg: No-Face")


async def test_a_device_of_another_installation_hears_why_it_is_refused(
    installation: Installation, tmp_path: Path, samples: Path
) -> None:
    other = Installation(tmp_path / "other")
    door, stranger = installation.device("door"), other.device("door")
    files = {"--mqtt-port": door.mqtt_port, "--bundle": stranger.mqtt_cert_file}
    code, said, complained = await send(*(part for option in files.items() for part in option), samples / "cat.jpg")
    assert (code, said) == (1, "")
    assert "certificate verify failed" in complained
    assert "no connection to the MQTT broker" in complained
