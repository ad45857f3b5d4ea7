"""SIGKILL in the middle of work: what was committed is answered after the next start, once."""

import asyncio
import os
import signal
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import httpx
import pytest

from facewire.domain.errors import QueueError
from facewire.runtime.settings import MqttSettings
from facewire_standalone.child import Child, running_child
from facewire_standalone.commands.camera import Camera
from facewire_standalone.commands.client import Client, ClientError, Picture

FRAMES = 200
KILLED_AFTER = 100
IN_FLIGHT = 20


@pytest.fixture
def picture(small_portrait: bytes) -> Picture:
    return Picture("frame.jpg", small_portrait)


def request_ids() -> list[str]:
    return [str(uuid.uuid4()) for _ in range(FRAMES)]


def history(child: Child) -> list[dict[str, str]]:
    """Return all results, page by page."""
    rows: list[dict[str, str]] = []
    with httpx.Client(base_url=child.http_url, timeout=30, trust_env=False) as api:
        cursor: str | None = ""
        while cursor is not None:
            params = {"limit": "200", **({"cursor": cursor} if cursor else {})}
            page = api.get("/v1/results", params=params).raise_for_status().json()
            rows += page["results"]
            cursor = page["cursor"]
    return rows


async def answered(child: Child) -> list[dict[str, str]]:
    """Return the history once nothing in it is pending any more."""
    params = {"status": "pending", "limit": "1"}
    async with asyncio.timeout(90), httpx.AsyncClient(base_url=child.http_url, timeout=30, trust_env=False) as api:
        while True:
            page = (await api.get("/v1/results", params=params)).raise_for_status().json()
            if not page["results"]:
                return await asyncio.to_thread(history, child)
            await asyncio.sleep(0.2)


async def upload(
    child: Child, picture: Picture, ids: Iterable[str], accepted: Callable[[str], None] = lambda _: None
) -> int:
    """Post one frame for each id, several at a time; `accepted` hears of each 202. Return how many got none."""
    places = asyncio.Semaphore(IN_FLIGHT)

    async def post(client: Client, request_id: str) -> bool:
        async with places:
            try:
                await client.submit(picture, request_id=request_id)
            except ClientError as error:
                if error.code != "unreachable":
                    raise
                return False
        accepted(request_id)
        return True

    async with Client.open(child.http_url) as client:
        outcomes = await asyncio.gather(*(post(client, request_id) for request_id in ids))
    return outcomes.count(False)


def assert_all_once(rows: Sequence[dict[str, str]], ids: Sequence[str]) -> None:
    assert Counter(row["request_id"] for row in rows) == Counter(ids)
    assert {row["status"] for row in rows} == {"done"}


async def test_every_upload_that_got_its_202_is_answered(tmp_path: Path, picture: Picture) -> None:
    ids = request_ids()
    accepted: set[str] = set()

    with running_child(tmp_path / "data") as first:

        def kill_after_enough(request_id: str) -> None:
            accepted.add(request_id)
            if len(accepted) == KILLED_AFTER:
                first.process.kill()

        assert await upload(first, picture, ids, kill_after_enough) == FRAMES - len(accepted) > 0
    with running_child(tmp_path / "data") as second:
        assert accepted <= {row["request_id"] for row in await asyncio.to_thread(history, second)}
        assert await upload(second, picture, set(ids) - accepted) == 0
        assert_all_once(await answered(second), ids)


async def test_every_frame_that_was_committed_over_mqtt_is_answered(
    tmp_path: Path, picture: Picture, record_testsuite_property: Callable[[str, object], None]
) -> None:
    ids = request_ids()
    with running_child(tmp_path / "data") as first:
        sent = await publish_until_killed(first, picture, ids)
    with running_child(tmp_path / "data") as second:
        rows = await answered(second)
        committed = {row["request_id"] for row in rows}
        assert_all_once(rows, list(committed))
        assert committed <= set(sent)
        assert committed, "nothing was committed before the kill"
        # The embedded broker keeps nothing on disk: what it had acknowledged and not yet handed on is lost with it.
        record_testsuite_property("frames published before the kill", len(sent))
        record_testsuite_property("frames lost with the broker", len(sent) - len(committed))
        await publish(second, picture, [request_id for request_id in ids if request_id not in committed])
        assert_all_once(await answered(second), ids)


async def publish(child: Child, picture: Picture, ids: Sequence[str]) -> None:
    settings = MqttSettings.read(mqtt_host=child.mqtt_host, mqtt_port=child.mqtt_port)
    async with Camera.open(settings, "killed") as camera:
        for request_id in ids:
            await camera.send(picture, request_id)


async def publish_until_killed(child: Child, picture: Picture, ids: Sequence[str]) -> list[str]:
    """Publish frames; kill the process after the 100th PUBACK; return the ids that the broker had taken or may have."""
    settings = MqttSettings.read(mqtt_host=child.mqtt_host, mqtt_port=child.mqtt_port)
    sent: list[str] = []
    async with Camera.open(settings, "killed") as camera:
        for request_id in ids:
            sent.append(request_id)
            try:
                await camera.send(picture, request_id)
            except QueueError:
                return sent
            if len(sent) == KILLED_AFTER:
                child.process.kill()
                child.process.wait()
    pytest.fail("the broker outlived its process")


async def test_a_broker_that_dies_is_replaced(tmp_path: Path, picture: Picture) -> None:
    with running_child(tmp_path / "data") as child:
        os.kill(broker_of(child), signal.SIGKILL)
        settings = MqttSettings.read(mqtt_host=child.mqtt_host, mqtt_port=child.mqtt_port)
        async with httpx.AsyncClient(base_url=child.http_url, trust_env=False) as api, asyncio.timeout(30):
            await until_ready(api, expected=False)
            await until_ready(api, expected=True)
            async with Camera.open(settings, "patient") as camera:
                await camera.send(picture, "after")
                assert (await anext(camera.answers())).request_id == "after"


def broker_of(child: Child) -> int:
    pid = child.process.pid
    (broker,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(broker)


async def until_ready(api: httpx.AsyncClient, *, expected: bool) -> None:
    while True:
        answer = await api.get("/readyz")
        if (answer.status_code == httpx.codes.OK) is expected:
            return
        assert expected or answer.json()["dependencies"]["database"] == "ready"
        await asyncio.sleep(0.02)
