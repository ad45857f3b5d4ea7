"""Replicas, crashes, stops and restarts: whatever got its 202 is answered, once."""

import asyncio
import io
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from compose_stack import Labelled, Stack, answers_to, submit, wait_until_ready
from facewire_standalone.commands.client import Client, Picture

#: Longer than three hand-overs of what a killed replica had: 15, 30 and 60 s.
ANSWER_SECONDS = 150.0
STOP_SECONDS = 10.0
FLOOD = 500


@pytest.fixture(scope="module")
def small_portrait(samples: Path) -> Picture:
    """Return a portrait that is quick to look at."""
    with Image.open(samples / "eileen_collins.jpg") as image:
        image.thumbnail((200, 200))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=90)
    return Picture("small.jpg", buffer.getvalue())


@pytest.fixture
def scaled(stack: Stack) -> Iterator[Stack]:
    """Run two detectors and two recognizers."""
    stack.up("--scale", "detector=2", "--scale", "recognizer=2")
    yield stack
    stack.up("--scale", "detector=1", "--scale", "recognizer=1")


async def test_a_replica_of_each_is_killed_in_the_middle(
    scaled: Stack, key: str, client: Client, small_portrait: Picture
) -> None:
    ids = await submit(client, [small_portrait] * FLOOD, "killed")
    await answers_to(client, ids[:20], ANSWER_SECONDS)
    victims = [scaled.containers("detector")[0], scaled.containers("recognizer")[0]]
    await asyncio.to_thread(scaled.docker, "kill", "--signal", "KILL", *victims)
    pending = await asyncio.gather(*(client.result(request_id, wait=0) for request_id in ids[-20:]))
    assert None in pending, "the kill came too late to show anything"
    await asyncio.to_thread(scaled.docker, "start", *victims)
    answers = await answers_to(client, ids, ANSWER_SECONDS)
    assert {answer.status for answer in answers} == {"done"}
    assert await history(scaled, key, "killed-") == sorted(ids)


async def history(stack: Stack, key: str, prefix: str) -> list[str]:
    """Return the request ids in the history that begin with `prefix`, each as often as it is there."""
    found: list[str] = []
    query: dict[str, Any] = {"limit": 100}
    headers = {"Authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(base_url=stack.http_url(), headers=headers, timeout=30, trust_env=False) as http:
        while True:
            page = (await http.get("/v1/results", params=query)).raise_for_status().json()
            found += [row["request_id"] for row in page["results"] if row["request_id"].startswith(prefix)]
            if not page["cursor"]:
                return sorted(found)
            query["cursor"] = page["cursor"]


async def test_a_stop_under_load_leaves_nothing_in_flight(stack: Stack, key: str, small_portrait: Picture) -> None:
    async with Client.open(stack.http_url(), key) as client:
        ids = await submit(client, [small_portrait] * 200, "stopped")
    services = ("detector", "recognizer", "gateway")
    begun = time.monotonic()
    await asyncio.to_thread(stack.compose, "stop", *services)
    took = time.monotonic() - begun
    assert took < STOP_SECONDS
    assert set(stack.exit_codes(*services).values()) == {0}
    assert {name: depth["in_flight"] for name, depth in stack.queue_depths().items()} == {"requests": 0, "responses": 0}
    await asyncio.to_thread(stack.up)
    async with Client.open(stack.http_url(), key) as client:
        await answers_to(client, ids, ANSWER_SECONDS)


@pytest.mark.parametrize("service", ["mosquitto", "localstack", "detector", "recognizer", "gateway"])
async def test_a_restart_loses_nothing(
    stack: Stack, key: str, enrolled: Labelled, small_portrait: Picture, service: str
) -> None:
    async with Client.open(stack.http_url(), key) as client:
        ids = await submit(client, [small_portrait] * 30, f"restart-{service}")
    await asyncio.to_thread(stack.compose, "restart", service)
    await asyncio.to_thread(wait_until_ready, stack.http_url())
    async with Client.open(stack.http_url(), key) as client:
        answers = await answers_to(client, ids, ANSWER_SECONDS)
        assert {answer.status for answer in answers} == {"done"}
        path, person = next(iter(enrolled.enrolled.items()))
        [answer] = await answers_to(client, await submit(client, [Picture.read(path)], "known"), ANSWER_SECONDS)
        assert answer.result == person


@pytest.fixture
def two_gateways(stack: Stack) -> Iterator[list[str]]:
    """Run two gateways; return where each is published."""
    stack.up("--scale", "gateway=2")
    ports = [stack.compose("port", "--index", index, "gateway", "8080").strip() for index in ("1", "2")]
    yield [f"http://{port}" for port in ports]
    stack.up("--scale", "gateway=1")


async def test_any_gateway_answers_and_tells_as_it_comes(
    two_gateways: list[str], key: str, small_portrait: Picture
) -> None:
    async with Client.open(two_gateways[0], key) as first, Client.open(two_gateways[1], key) as second:
        events = second.events()
        async with asyncio.timeout(ANSWER_SECONDS):
            assert (await anext(events)).name == "open"
            ids = await submit(first, [small_portrait] * 10, "replicas")
            told = [(await anext(events)).answer for _ in ids]
        assert sorted(answer.request_id for answer in told if answer is not None) == sorted(ids)
        assert len(await answers_to(second, ids, 5.0)) == len(ids)
