"""Probes of a process without an HTTP API, and the health check that asks them."""

import asyncio
import contextlib
import socket
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import httpx
import pytest

from facewire.domain.errors import SettingsError, StoreError
from facewire.runtime import probes
from facewire.runtime.healthcheck import check, main
from facewire.runtime.probes import serving_probes
from facewire.runtime.readiness import Depth, Readiness
from facewire.runtime.settings import ProbeSettings

SETTINGS = ProbeSettings.read(probe_port=0)


@dataclass(frozen=True)
class Held:
    waiting: int = 3
    leased: int = 2
    dead: int = 1
    delayed: int = 4


def says(reason: str | None) -> Readiness:
    async def look() -> str | None:
        return reason

    return look


async def fails() -> str | None:
    raise StoreError("disk_full", "no space left")


def serving(
    readiness: dict[str, Readiness] | None = None, depths: dict[str, Depth] | None = None
) -> contextlib.AbstractAsyncContextManager[str]:
    return serving_probes(SETTINGS, readiness=readiness or {}, depths=depths or {})


async def get(url: str, method: str = "GET") -> httpx.Response:
    async with httpx.AsyncClient() as client:
        return await client.request(method, url)


async def raw(url: str, request: bytes) -> bytes:
    """Send the bytes as they are; return everything that comes back until the connection is closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
    try:
        writer.write(request)
        return await reader.read()
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


async def test_alive_and_ready() -> None:
    async with serving({"mqtt": says(None)}) as url:
        alive, ready = await get(f"{url}/healthz"), await get(f"{url}/readyz?why")
    assert (alive.status_code, alive.json()) == (200, {"status": "alive"})
    assert (ready.status_code, ready.json()) == (200, {"status": "ready", "dependencies": {"mqtt": "ready"}})


async def breaks() -> str | None:
    return {"there": "is none"}["QueueUrl"]


@pytest.mark.parametrize(
    ("look", "reason"), [(says("no connection"), "no connection"), (fails, "disk_full"), (breaks, "KeyError")]
)
async def test_what_is_not_ready_is_named(look: Callable[[], Awaitable[str | None]], reason: str) -> None:
    async with serving({"mqtt": look, "queue": says(None)}) as url:
        response = await get(f"{url}/readyz")
    assert response.status_code == 503
    assert response.json()["status"] == "not_ready"
    assert reason in response.json()["dependencies"]["mqtt"]
    assert response.json()["dependencies"]["queue"] == "ready"


async def test_what_there_is_to_be_ready_may_come_later() -> None:
    readiness = {"models": says("still loading")}
    async with serving(readiness) as url:
        assert (await get(f"{url}/readyz")).status_code == 503
        readiness["models"] = says(None)
        assert (await get(f"{url}/readyz")).status_code == 200


async def test_metrics_tell_depths() -> None:
    async def depth() -> Held:
        return Held()

    async with serving(depths={"probed": depth}) as url:
        response = await get(f"{url}/metrics")
    assert response.headers["Content-Type"].startswith("text/plain; version=")
    assert 'facewire_queue_messages{queue="probed",state="dead"} 1.0' in response.text
    assert 'facewire_queue_messages{queue="probed",state="delayed"} 4.0' in response.text
    assert 'facewire_queue_bytes{queue="probed"}' not in response.text


async def test_head_is_answered_without_a_body_and_other_requests_with_an_error() -> None:
    async with serving() as url:
        head = await get(f"{url}/healthz", "HEAD")
        assert (head.status_code, head.content) == (200, b"")
        assert (await get(f"{url}/elsewhere")).status_code == 404
        assert (await get(f"{url}/healthz", "POST")).status_code == 405
        assert (await raw(url, b"nonsense\r\n\r\n")).startswith(b"HTTP/1.1 405")


async def test_a_request_that_is_too_long_or_never_ends_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "_REQUEST_SECONDS", 0.1)
    async with asyncio.timeout(5), serving() as url:
        assert await raw(url, b"GET /healthz HTTP/1.1\r\nX: " + b"x" * 100_000) == b""
        assert await raw(url, b"GET /healthz HTTP/1.1\r\n") == b""
        assert (await get(f"{url}/healthz")).status_code == 200


async def test_connections_are_bounded_and_end_with_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "MAX_CONNECTIONS", 2)
    async with asyncio.timeout(5), contextlib.AsyncExitStack() as after:
        async with serving() as url:
            port = int(url.rpartition(":")[2])
            held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
            for _, writer in held:
                after.callback(writer.close)
            assert await raw(url, b"GET /healthz HTTP/1.1\r\n\r\n") == b""
        assert [await reader.read() for reader, _ in held] == [b"", b""]


async def test_a_queue_whose_depth_cannot_be_told_leaves_the_other_metrics() -> None:
    async def unknown() -> Held:
        raise KeyError

    async def known() -> Held:
        return Held()

    async with serving(depths={"broken": unknown, "sound": known}) as url:
        response = await get(f"{url}/metrics")
    assert response.status_code == 200
    assert 'facewire_queue_messages{queue="sound",state="waiting"} 3.0' in response.text
    assert "broken" not in response.text


async def test_a_port_that_is_taken_is_a_wrong_setting() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError, match=f"cannot listen on 127.0.0.1:{port}"):
            async with serving_probes(ProbeSettings.read(probe_port=port), readiness={}, depths={}):
                pytest.fail("it must not get here")


async def test_the_health_check_tells_ready_from_not_ready(capsys: pytest.CaptureFixture[str]) -> None:
    async with serving({"mqtt": says("no connection")}) as url:
        assert await asyncio.to_thread(main, [f"{url}/readyz"]) == 1
        assert await asyncio.to_thread(main, [f"{url}/healthz"]) == 0
    not_ready, alive = capsys.readouterr().out.splitlines()
    assert not_ready == '503 {"status": "not_ready", "dependencies": {"mqtt": "no connection"}}'
    assert alive == '200 {"status": "alive"}'


def test_the_health_check_of_what_hangs_or_is_not_there_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("facewire.runtime.healthcheck.TIMEOUT_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/readyz"
        assert check(url) == (False, f"{url}: timed out")
    for gone in (url, "ftp://127.0.0.1/", "127.0.0.1:80", "http://127.0.0.1:high/"):
        ready, line = check(gone)
        assert not ready
        assert line.startswith(f"{gone}: ")


def test_the_health_check_survives_what_is_no_http() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"SSH-2.0-no\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        ready, _ = check(f"http://127.0.0.1:{server.getsockname()[1]}/")
        thread.join()
    assert not ready


def test_the_health_check_as_a_program_needs_the_standard_library_only() -> None:
    program = "import sys, facewire.runtime.healthcheck; print({'pydantic', 'structlog', 'asyncio'} & set(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert loaded.stdout == "set()\n"
    called = [sys.executable, "-m", "facewire.runtime.healthcheck"]
    assert subprocess.run(called, capture_output=True, check=False).returncode == 1
