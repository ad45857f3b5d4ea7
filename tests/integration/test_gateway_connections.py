"""Connections that hold a place without a request lose it."""

import asyncio
import resource
from collections.abc import AsyncIterator

import httpx
import pytest

from facewire.runtime.settings import GatewaySettings
from facewire.testing import MemoryGalleryStore
from facewire_gateway import connections
from facewire_gateway.app import create_app
from facewire_gateway.connections import most_connections, raise_open_files_limit
from facewire_gateway.delivery.feed import Feed
from facewire_gateway.server import listen, serve, url_of
from gateway_fakes import FakeSink, FaultyResults, picture
from pipeline_fakes import ENROLL_KEY

HEAD = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


@pytest.fixture
async def url() -> AsyncIterator[httpx.URL]:
    settings, stop, results = GatewaySettings.read(port=0, drain_seconds=2), asyncio.Event(), FaultyResults()
    feed = Feed(results)
    sink, gallery = FakeSink(results), MemoryGalleryStore()
    app = create_app(settings, sink=sink, results=results, gallery=gallery, feed=feed, enroll_key=ENROLL_KEY)
    listener = listen(settings, keys_required=False)
    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        tasks.create_task(serve(app, listener, settings, feed=feed, stop=stop))
        yield httpx.URL(url_of(listener, settings))
        stop.set()


@pytest.fixture
def a_short_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.3)


async def connect(url: httpx.URL, sent: bytes = b"") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(sent)
    return reader, writer


async def rest_of(reader: asyncio.StreamReader) -> bytes:
    """Return what comes until the server closes; TimeoutError if it does not within five seconds."""
    taken = bytearray()
    async with asyncio.timeout(5):
        try:
            while chunk := await reader.read(1000):
                taken += chunk
        except ConnectionResetError:
            pass  # an abort may look like this
    return bytes(taken)


@pytest.mark.usefixtures("a_short_deadline")
@pytest.mark.parametrize("sent", [b"", b"\r\n", HEAD[:20]])
async def test_a_head_that_does_not_come_ends_the_connection(url: httpx.URL, sent: bytes) -> None:
    reader, writer = await connect(url, sent)
    assert await rest_of(reader) == b""
    writer.close()


@pytest.mark.usefixtures("a_short_deadline")
@pytest.mark.parametrize("further", [b"\r\n", HEAD[:20]])
async def test_so_does_the_head_of_a_further_request(url: httpx.URL, further: bytes) -> None:
    reader, writer = await connect(url, HEAD)
    async with asyncio.timeout(5):
        assert b" 200 " in await reader.readline()
        await reader.readuntil(b"}")
    writer.write(further)
    assert await rest_of(reader) == b""
    writer.close()


async def test_so_does_the_rest_of_a_body_that_is_answered(url: httpx.URL, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "REST_SECONDS", 0.3)
    head = (
        b"POST /v1/frames HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/jpeg\r\nContent-Length: 99000000\r\n\r\n"
    )
    reader, writer = await connect(url, head)
    async with asyncio.timeout(5):
        assert b" 413 " in await reader.readline()
    writer.write(b"x")
    assert b"too_large" in await rest_of(reader)
    writer.close()


@pytest.mark.usefixtures("a_short_deadline")
async def test_a_request_under_way_takes_as_long_as_it_may(url: httpx.URL) -> None:
    async with httpx.AsyncClient(base_url=url, timeout=10, trust_env=False) as client:
        response = await client.post("/v1/frames?wait=1", content=picture(), headers={"Content-Type": "image/jpeg"})
    assert response.status_code == 202


async def test_one_too_many_is_refused_and_the_rest_are_served(url: httpx.URL, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 2)
    first, second, third = [await connect(url) for _ in range(3)]
    assert await rest_of(third[0]) == b""
    first[1].write(HEAD)
    async with asyncio.timeout(5):
        assert b" 200 " in await first[0].readline()
    for _, writer in (first, second, third):
        writer.close()


def test_the_bound_is_below_what_the_system_allows() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (300, before[1]))
        assert most_connections() == 150
        raise_open_files_limit()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (before[1], before[1])
        assert most_connections() <= connections.MAX_CONNECTIONS
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
