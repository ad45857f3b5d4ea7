"""Probes, metrics, and the problems nobody's route raises."""

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import pytest

from facewire.domain.errors import StoreError
from facewire.runtime.readiness import Readiness
from gateway_fakes import open_bench


@dataclass(frozen=True)
class Depth:
    waiting: int = 3
    leased: int = 2
    dead: int = 1
    bytes: int = 700


def says(reason: str | None) -> Readiness:
    async def check() -> str | None:
        return reason

    return check


async def fails() -> str | None:
    raise StoreError("disk_full", "no space left")


async def hangs() -> str | None:
    await asyncio.Event().wait()
    return None


async def test_alive_and_ready() -> None:
    async with open_bench(readiness={"mqtt": says(None), "store": says(None)}) as bench:
        assert (await bench.client.get("/healthz")).json() == {"status": "alive"}
        response = await bench.client.get("/readyz")
    assert response.status_code == 200
    assert response.json() == {"status": "ready", "dependencies": {"mqtt": "ready", "store": "ready"}}


@pytest.mark.parametrize(
    ("check", "reason"), [(says("no connection"), "no connection"), (fails, "disk_full"), (hangs, "no answer")]
)
async def test_what_is_not_ready_is_named(
    check: Callable[[], Awaitable[str | None]], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("facewire.runtime.readiness._CHECK_SECONDS", 0.02)
    async with open_bench(readiness={"mqtt": check, "store": says(None)}) as bench:
        response = await bench.client.get("/readyz")
        assert (await bench.client.get("/healthz")).status_code == 200
    assert response.status_code == 503
    body = response.json()
    assert body["status"] == "not_ready"
    assert reason in body["dependencies"]["mqtt"]
    assert body["dependencies"]["store"] == "ready"


async def test_metrics_tell_depths_and_routes_not_paths() -> None:
    async def depth() -> Depth:
        return Depth()

    async def unknown() -> Depth:
        raise StoreError("disk_full", "no space left")

    async with open_bench(depths={"request": depth, "broken": unknown}) as bench:
        await bench.client.get("/v1/results/a-very-own-id")
        response = await bench.client.get("/metrics")
    assert response.headers["Content-Type"].startswith("text/plain")
    assert 'facewire_queue_messages{queue="request",state="dead"} 1.0' in response.text
    assert 'facewire_queue_bytes{queue="request"} 700.0' in response.text
    assert 'queue="broken"' not in response.text
    assert 'route="/v1/results/{request_id}",status="404"' in response.text
    assert "a-very-own-id" not in response.text


@pytest.mark.parametrize(
    ("method", "url", "status", "code"),
    [
        ("GET", "/nothing", 404, "no_such_page"),
        ("PUT", "/v1/frames", 405, "method_not_allowed"),
        ("GET", "/v1/people//faces", 422, "bad_name"),
        ("GET", "/v1/people/a%2fb", 422, "bad_name"),
    ],
)
async def test_what_is_not_there_gets_a_problem(method: str, url: str, status: int, code: str) -> None:
    async with open_bench() as bench:
        response = await bench.client.request(method, url)
    problem = response.json()
    assert response.headers["Content-Type"] == "application/problem+json"
    assert (response.status_code, problem["code"]) == (status, code)
    assert problem["request_id"] == response.headers["X-Request-Id"]
    assert ("Allow" in response.headers) == (status == 405)


async def test_a_fault_of_ours_is_a_problem_without_its_innards() -> None:
    async with open_bench() as bench:
        del bench.gallery._faces
        response = await bench.client.get("/v1/people", headers={"X-Request-Id": "r1"})
    problem = response.json()
    assert (response.status_code, problem["code"], problem["request_id"]) == (500, "internal_error", "r1")
    assert "_faces" not in response.text


async def test_the_api_describes_itself() -> None:
    async with open_bench() as bench:
        description = (await bench.client.get("/openapi.json")).json()
    assert {"/v1/frames", "/v1/results", "/v1/results/{request_id}", "/v1/events", "/v1/people"} <= set(
        description["paths"]
    )
    bodies = description["paths"]["/v1/frames"]["post"]["requestBody"]["content"]
    assert set(bodies) == {"application/json", "multipart/form-data", "image/jpeg", "image/png", "image/webp"}


async def test_pages_come_with_a_strict_policy() -> None:
    async with open_bench() as bench:
        for url in ("/", "/docs", "/static/main.js", "/static/page.css"):
            response = await bench.client.get(url)
            assert response.status_code == 200
            assert "'unsafe" not in response.headers["Content-Security-Policy"]
            assert "http" not in response.headers["Content-Security-Policy"]
        for url in ("/static/../app.py", "/static/%2e%2e/app.py", "/static/none.js"):
            assert (await bench.client.get(url)).status_code in {404, 405}


def test_the_gateway_loads_no_vision() -> None:
    modules = ["app", "service", "server"]
    loads = ";".join(f"import facewire_gateway.{module}" for module in modules)
    check = "import sys; print([name for name in ('numpy', 'onnxruntime', 'cv2') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", f"{loads};{check}"], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/", "/docs"])
async def test_head_is_answered_like_get_without_a_body(path: str) -> None:
    async with open_bench() as bench:
        answer = await bench.client.head(path)
    assert (answer.status_code, answer.content) == (200, b"")


async def test_a_trailing_slash_leads_nowhere() -> None:
    async with open_bench() as bench:
        answer = await bench.client.get("/v1/people/")
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")
