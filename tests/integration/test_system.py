"""The whole system in this process: it starts, answers, stops without a trace, and says what stands against it."""

import asyncio
import base64
import json
import os
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from facewire.adapters.mqtt.connection import MqttConnection
from facewire.domain.errors import FacewireError, ModelError, SettingsError
from facewire.domain.messages import RecognizedFaces
from facewire.runtime.settings import MqttSettings
from facewire_standalone.commands.camera import Camera
from facewire_standalone.commands.client import Client, Picture
from facewire_standalone.settings import StandaloneSettings
from facewire_standalone.system import System, running_system

PASSWORD = "secret"  # noqa: S105 - of a broker that lives for a second
ANYWHERE = "0.0.0.0"  # noqa: S104 - refused, or bound with passwords


def settings_for(folder: Path, **given: object) -> StandaloneSettings:
    return StandaloneSettings.read(**{"data_dir": folder, "port": 0, "mqtt_port": 0, **given})


@pytest.fixture
def portrait(samples: Path) -> Picture:
    return Picture.read(samples / "eileen_collins.jpg")


def port_of(system: System) -> int:
    return httpx.URL(system.http_url).port or 0


def refuses(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def own_tasks() -> set[str]:
    return {task.get_name() for task in asyncio.all_tasks()}


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - Path.iterdir would need one itself


async def ask_over_both_ways(system: System, portrait: Picture, turn: int) -> None:
    settings = MqttSettings.read(mqtt_host=system.mqtt_host, mqtt_port=system.mqtt_port)
    async with asyncio.timeout(30), Client.open(system.http_url) as client, Camera.open(settings, "door") as camera:
        await client.submit(portrait, request_id=f"http-{turn}")
        answer = await client.result(f"http-{turn}")
        assert answer is not None
        assert len(answer.faces) == 1
        await camera.send(portrait, f"mqtt-{turn}")
        assert (await anext(camera.answers())).request_id == f"mqtt-{turn}"


async def test_three_times_in_one_process_without_a_trace(tmp_path: Path, portrait: Picture) -> None:
    before = own_tasks()
    files: list[int] = []
    for turn in range(3):
        async with running_system(settings_for(tmp_path)) as system:
            assert {"recognizer", "detector", "intake", "gateway", "drain", "expiry", "publisher"} <= own_tasks()
            await ask_over_both_ways(system, portrait, turn)
            async with Client.open(system.http_url) as client:
                earlier = await client.result("http-0", wait=0)
            assert earlier is not None, "answers outlive a restart"
        assert own_tasks() == before
        assert refuses(port_of(system))
        assert refuses(system.mqtt_port)
        files.append(open_files())
    assert files[2] == files[1]
    names = {thread.name for thread in threading.enumerate()}
    assert not any(name.startswith(("sqlite", "detect", "recognize")) for name in names), names


async def test_everything_is_named_by_readyz_and_measured(tmp_path: Path) -> None:
    async with running_system(settings_for(tmp_path)) as system, httpx.AsyncClient(base_url=system.http_url) as http:
        ready = await http.get("/readyz")
        assert (ready.status_code, ready.json()["dependencies"]) == (200, {"database": "ready", "mqtt": "ready"})
        metrics = (await http.get("/metrics")).text
    for queue in ("inbox", "requests", "responses"):
        assert f'queue="{queue}"' in metrics


async def test_a_system_whose_database_file_was_removed_is_not_ready(tmp_path: Path, portrait: Picture) -> None:
    settings = settings_for(tmp_path)
    async with running_system(settings) as system, httpx.AsyncClient(base_url=system.http_url) as http:
        await ask_over_both_ways(system, portrait, 0)  # everything has started by then
        settings.database_file.unlink()
        ready = await http.get("/readyz")
    assert ready.status_code == 503
    assert "removed" in ready.json()["dependencies"]["database"]
    assert str(tmp_path) not in ready.text


async def test_a_frame_in_the_inbox_is_finished_after_the_stop_event(tmp_path: Path, portrait: Picture) -> None:
    async with running_system(settings_for(tmp_path, drain_seconds=20)) as system:
        async with Client.open(system.http_url) as client:
            for number in range(3):
                await client.submit(portrait, request_id=str(number))
        system.stop.set()
    async with running_system(settings_for(tmp_path)) as system, Client.open(system.http_url) as client:
        answers = [await client.result(str(number)) for number in range(3)]
    assert all(answer is not None and answer.status == "done" for answer in answers)


@asynccontextmanager
async def device(system: System, name: str) -> AsyncIterator[MqttConnection]:
    settings = MqttSettings.read(mqtt_host=system.mqtt_host, mqtt_port=system.mqtt_port)
    async with MqttConnection.open(settings, subscriptions=[f"clients/{name}/results"]) as connection:
        await connection.wait_connected()
        yield connection


async def told(connection: MqttConnection) -> RecognizedFaces:
    message = await anext(connection.messages())
    message.acknowledge()
    return RecognizedFaces.from_bytes(message.payload)


async def test_a_frame_sent_again_over_mqtt_is_answered_again_and_so_is_another_camera(
    tmp_path: Path, portrait: Picture
) -> None:
    said = json.dumps({"request_id": "r1", "content": base64.b64encode(portrait.content).decode()}).encode()
    async with (
        asyncio.timeout(60),
        running_system(settings_for(tmp_path)) as system,
        device(system, "door") as door,
        device(system, "hall") as hall,
    ):
        await door.publish("clients/door", said)
        first = await told(door)
        await door.publish("clients/door", said)
        again = await told(door)
        await hall.publish("clients/hall", said)
        other = await told(hall)
    assert (again.request_id, again.answered_at, again.faces) == ("r1", first.answered_at, first.faces)
    assert (other.request_id, other.camera, other.faces) == ("r1", "hall", first.faces)


async def test_a_raw_still_sent_again_is_a_new_question_once_the_gallery_has_changed(
    tmp_path: Path, portrait: Picture
) -> None:
    async with (
        asyncio.timeout(60),
        running_system(settings_for(tmp_path)) as system,
        Client.open(system.http_url) as client,
        device(system, "door") as door,
    ):
        await door.publish("clients/door", portrait.content)
        before = await told(door)
        await client.enroll("Eileen Collins", portrait)
        after = before
        while after.result == "Unknown":  # until the recognizer has seen the new face
            await door.publish("clients/door", portrait.content)
            after = await told(door)
        kept = await client.result(before.request_id)
    assert after.request_id == before.request_id
    assert after.result == "Eileen Collins"
    assert kept is not None
    assert kept.result == "Eileen Collins"


async def refusal(settings: StandaloneSettings) -> FacewireError:
    with pytest.raises(FacewireError) as caught:
        async with running_system(settings):
            pytest.fail("it started")
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        yield taken.getsockname()[1]


@pytest.mark.parametrize("setting", ["port", "mqtt_port"])
async def test_a_taken_port_is_named(tmp_path: Path, taken_port: int, setting: str) -> None:
    before = own_tasks()
    error = await refusal(settings_for(tmp_path, **{setting: taken_port}))
    assert isinstance(error, SettingsError)
    assert (error.code, str(taken_port) in error.detail) == (setting, True)
    assert own_tasks() == before


async def test_two_do_not_serve_one_folder(tmp_path: Path) -> None:
    async with running_system(settings_for(tmp_path)):
        assert "is served by process" in (await refusal(settings_for(tmp_path))).detail


async def test_an_unknown_embedder_and_one_that_is_not_here(tmp_path: Path) -> None:
    unknown = await refusal(settings_for(tmp_path, embedder="nobody"))
    assert isinstance(unknown, ModelError)
    missing = await refusal(settings_for(tmp_path, embedder="sface", models_dir=tmp_path))
    assert "facewire models pull sface" in missing.detail


async def test_a_database_that_cannot_be_opened_is_a_wrong_setting(tmp_path: Path) -> None:
    file = tmp_path / "facewire.db"
    file.write_bytes(b"no database at all" * 1000)
    garbage = await refusal(settings_for(tmp_path))
    file.unlink()
    file.mkdir()
    folder = await refusal(settings_for(tmp_path))
    for error in (garbage, folder):
        assert isinstance(error, SettingsError)
        assert (error.code, str(file) in error.detail) == ("data_dir", True)


async def test_beyond_loopback_only_with_keys_and_passwords(tmp_path: Path) -> None:
    assert (await refusal(settings_for(tmp_path, host=ANYWHERE))).code == "host"
    assert (await refusal(settings_for(tmp_path, mqtt_host=ANYWHERE))).code == "mqtt_host"


async def test_with_keys_and_passwords(tmp_path: Path, portrait: Picture) -> None:
    (tmp_path / "users").write_text(f"camera:{PASSWORD}\n")
    (tmp_path / "users").chmod(0o600)
    settings = settings_for(tmp_path, mqtt_host=ANYWHERE, mqtt_password_file=tmp_path / "users")
    async with running_system(settings) as system:
        known = MqttSettings.read(
            mqtt_host="127.0.0.1", mqtt_port=system.mqtt_port, mqtt_username="camera", mqtt_password=PASSWORD
        )
        async with asyncio.timeout(30), Camera.open(known, "door") as camera:
            await camera.send(portrait, "with-password")
            assert (await anext(camera.answers())).status == "done"
        stranger = MqttSettings.read(mqtt_host="127.0.0.1", mqtt_port=system.mqtt_port)
        with pytest.raises(FacewireError, match="no connection"):
            async with Camera.open(stranger, "door"):
                pytest.fail("let in without a password")
