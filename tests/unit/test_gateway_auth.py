"""Keys: who may do what, and how the file of keys behaves."""

import asyncio
import json
import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import get_args

import pytest

from facewire.domain.errors import SettingsError
from facewire_gateway.api import events
from facewire_gateway.api.auth import KeyRing, Role, create_key, is_loopback, list_keys, remove_key
from gateway_fakes import Bench, answer, open_bench, picture, until

JPEG = {"Content-Type": "image/jpeg"}
#: Every call with the roles that may make it, admin aside.
CALLS: list[tuple[str, str, set[str]]] = [
    ("POST", "/v1/frames", {"ingest"}),
    ("GET", "/v1/results/r1", {"ingest", "read"}),
    ("GET", "/v1/results", {"read"}),
    ("GET", "/v1/people", {"read"}),
    ("GET", "/v1/people/Ada", {"read"}),
    ("POST", "/v1/people/Ada/faces", set()),
    ("DELETE", "/v1/people/Ada", set()),
    ("DELETE", "/v1/people/Ada/faces/f1", set()),
    ("GET", "/metrics", {"read"}),
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


@pytest.fixture
def keys(path: Path) -> dict[str, str]:
    return {role: create_key(path, f"my {role}", role) for role in get_args(Role)}


@pytest.fixture
async def bench(path: Path, keys: dict[str, str]) -> AsyncIterator[Bench]:
    assert keys
    async with open_bench(keys=KeyRing(path)) as bench:
        yield bench


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.mark.parametrize("call", CALLS, ids=lambda call: f"{call[0]} {call[1]}")
@pytest.mark.parametrize("role", get_args(Role))
async def test_each_call_wants_its_role(
    bench: Bench, keys: dict[str, str], call: tuple[str, str, set[str]], role: str
) -> None:
    method, url, roles = call
    response = await bench.client.request(method, url, headers=bearer(keys[role]))
    if role in roles | {"admin"}:
        assert response.status_code not in {401, 403}
        return
    problem = response.json()
    assert (response.status_code, problem["code"]) == (403, "missing_role")
    assert "admin" in problem["detail"]
    assert all(name in problem["detail"] for name in roles)


@pytest.mark.parametrize(("method", "url"), [call[:2] for call in CALLS] + [("GET", "/v1/events")])
@pytest.mark.parametrize(("headers", "code"), [({}, "missing_key"), (bearer("fw_wrong"), "unknown_key")])
async def test_no_key_or_a_wrong_one_gets_401(
    bench: Bench, method: str, url: str, headers: dict[str, str], code: str
) -> None:
    response = await bench.client.request(method, url, headers=headers)
    assert (response.status_code, response.json()["code"]) == (401, code)
    assert response.headers["WWW-Authenticate"].startswith("Bearer")
    assert "fw_" not in response.text


@pytest.mark.parametrize("url", ["/healthz", "/readyz"])
async def test_probes_need_no_key(bench: Bench, url: str) -> None:
    assert (await bench.client.get(url)).status_code == 200


async def test_the_key_is_checked_before_the_body_is_read(bench: Bench) -> None:
    read = False

    async def body() -> AsyncIterator[bytes]:
        nonlocal read
        read = True
        yield picture()

    response = await bench.client.post("/v1/frames", content=body(), headers=JPEG)
    assert response.status_code == 401
    assert not read


async def test_keys_take_effect_and_end_without_a_restart(bench: Bench, path: Path) -> None:
    key = create_key(path, "late", "read")
    assert (await bench.client.get("/v1/people", headers=bearer(key))).status_code == 200
    assert remove_key(path, "late")
    assert (await bench.client.get("/v1/people", headers=bearer(key))).status_code == 401
    assert not remove_key(path, "late")


async def test_a_removed_key_ends_its_event_streams(bench: Bench, path: Path, keys: dict[str, str]) -> None:
    late = create_key(path, "late", "read")
    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        ending = tasks.create_task(bench.client.get("/v1/events", headers=bearer(late)))
        staying = tasks.create_task(bench.client.get("/v1/events", headers=bearer(keys["read"])))
        await until(lambda: bench.feed.subscribers == 2)
        remove_key(path, "late")
        bench.feed.publish([answer("after")])
        await until(lambda: bench.feed.subscribers == 1)
        bench.feed.close()
    assert "after" not in ending.result().text
    assert "after" in staying.result().text


async def test_a_removed_key_ends_a_silent_event_stream(
    bench: Bench, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "HEARTBEAT_SECONDS", 0.02)
    key = create_key(path, "late", "read")
    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        tasks.create_task(bench.client.get("/v1/events", headers=bearer(key)))
        await until(lambda: bench.feed.subscribers == 1)
        remove_key(path, "late")


@pytest.mark.parametrize("content", [None, "{"])
async def test_a_file_that_vanishes_or_breaks_opens_nothing(
    bench: Bench, path: Path, keys: dict[str, str], content: str | None
) -> None:
    path.unlink()  # noqa: ASYNC240 - a test may block
    if content is not None:
        path.write_text(content)  # noqa: ASYNC240
    assert (await bench.client.get("/v1/people")).status_code == 401
    assert (await bench.client.get("/v1/people", headers=bearer(keys["read"]))).status_code == 200


def test_the_file_holds_hashes_and_is_private(path: Path) -> None:
    before = os.umask(0)
    try:
        key = create_key(path, "one", "read")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert key not in path.read_text()
    [kept] = json.loads(path.read_text())["keys"]
    assert (kept["name"], kept["role"], len(kept["sha256"])) == ("one", "read", 64)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_a_name_is_used_once(path: Path) -> None:
    create_key(path, "one", "read")
    with pytest.raises(SettingsError, match="one"):
        create_key(path, "one", "admin")
    assert [key.role for key in list_keys(path)] == ["read"]


@pytest.mark.parametrize("content", [None, "{", '{"keys": [{"name": "x"}]}'])
def test_an_unusable_file_stops_the_start(path: Path, content: str | None) -> None:
    if content is not None:
        path.write_text(content)
    with pytest.raises(SettingsError, match="keys_file"):
        KeyRing(path)


@pytest.mark.parametrize(
    ("host", "local"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("[::1]", True), ("localhost", True)]
    + [(host, False) for host in ("0.0.0.0", "::", "10.0.0.1", "example.com", "localhost.example.com", "")],  # noqa: S104
)
def test_loopback_is_known(host: str, local: bool) -> None:
    assert is_loopback(host) is local


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "localhost:8080"}, 200),
        ({"Host": "[::1]:8080"}, 200),
        ({"Host": "rebound.example.com"}, 403),
        ({"Origin": "http://127.0.0.1"}, 200),
        ({"Origin": "http://127.0.0.1:9"}, 403),
        ({"Origin": "https://example.com"}, 403),
        ({"Origin": "null"}, 403),
    ],
)
async def test_without_keys_other_sites_pages_are_refused(headers: dict[str, str], status: int) -> None:
    async with open_bench() as bench:
        response = await bench.client.get("/v1/people", headers=headers)
    assert response.status_code == status
