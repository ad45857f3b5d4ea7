"""The gateway on a real port over SQLite, with a pipeline behind it that finds no face in anything."""

import asyncio
import contextlib
import socket
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from httpx_sse import aconnect_sse

from facewire.adapters.sqlite.database import Database
from facewire.adapters.sqlite.gallery import SqliteGalleryStore
from facewire.adapters.sqlite.inbox import Inbox
from facewire.adapters.sqlite.queue import SqliteQueue
from facewire.adapters.sqlite.results import SqliteResultStore
from facewire.domain.errors import SettingsError
from facewire.domain.messages import Frame, RecognizedFaces
from facewire.runtime.settings import GatewaySettings
from facewire_detector.intake import Intake
from facewire_gateway.api.auth import KeyRing
from facewire_gateway.app import create_app
from facewire_gateway.delivery.drain import drain_responses
from facewire_gateway.delivery.expiry import mark_lost
from facewire_gateway.delivery.feed import Feed
from facewire_gateway.delivery.notifier import LocalNotifier
from facewire_gateway.server import listen, serve, url_of
from gateway_fakes import picture, until
from pipeline_fakes import ENROLL_KEY

JPEG = {"Content-Type": "image/jpeg"}


@dataclass
class Running:
    url: str
    client: httpx.AsyncClient
    feed: Feed
    results: SqliteResultStore
    settings: GatewaySettings
    answering: asyncio.Event
    stop: asyncio.Event

    async def post(self, request_id: str, content: bytes, wait: float = 0) -> httpx.Response:
        headers = {**JPEG, "X-Request-Id": request_id}
        return await self.client.post("/v1/frames", params={"wait": wait}, content=content, headers=headers)


async def answer_all(inbox: Inbox, responses: SqliteQueue, answering: asyncio.Event) -> None:
    while True:
        await answering.wait()
        leases = await inbox.receive(10, wait=1.0)
        frames = [Frame.from_bytes(lease.body) for lease in leases]
        await responses.send([no_face(frame).to_bytes() for frame in frames])
        await inbox.acknowledge(leases)


def no_face(frame: Frame) -> RecognizedFaces:
    return RecognizedFaces(
        request_id=frame.request_id,
        result="No-Face",
        camera=frame.camera,
        received_at=frame.received_at,
        content_sha256=frame.content_sha256,
    )


async def publish_nothing(_answers: Sequence[RecognizedFaces]) -> None:
    return


@asynccontextmanager
async def serving(path: Path, **given: object) -> AsyncIterator[Running]:
    settings = GatewaySettings.read(port=0, drain_seconds=2, **given)
    answering, stop, drained = asyncio.Event(), asyncio.Event(), asyncio.Event()
    async with Database.open(path / "facewire.db") as database, asyncio.TaskGroup() as tasks:
        results = SqliteResultStore(database)
        inbox = Inbox(database, max_bytes=10**8, policy="all", id_window_seconds=600, results=results)
        responses, feed = SqliteQueue(database, "responses"), Feed(results)
        app = create_app(
            settings,
            sink=Intake(inbox, responses),
            results=results,
            gallery=SqliteGalleryStore(database),
            feed=feed,
            enroll_key=ENROLL_KEY,
            depths={"inbox": inbox.depth, "responses": responses.depth},
        )
        listener = listen(settings, keys_required=settings.keys_file is not None)
        url = url_of(listener, settings)
        pipeline = tasks.create_task(answer_all(inbox, responses, answering))
        tasks.create_task(drain_responses(responses, results, LocalNotifier(feed, publish_nothing), drained))
        server = tasks.create_task(serve(app, listener, settings, feed=feed, stop=stop))
        async with httpx.AsyncClient(base_url=url, timeout=30, verify=False) as client:  # noqa: S501 - made here
            yield Running(url, client, feed, results, settings, answering, stop)
        stop.set()
        await server
        pipeline.cancel()
        drained.set()


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    async with serving(tmp_path) as running:
        yield running


async def history(running: Running) -> list[str]:
    ids: list[str] = []
    cursor = None
    while True:
        params = {"limit": 60, **({"cursor": cursor} if cursor else {})}
        page = (await running.client.get("/v1/results", params=params)).raise_for_status().json()
        ids += [result["request_id"] for result in page["results"]]
        cursor = page["cursor"]
        if cursor is None:
            return ids


async def ask_at_once(url: str, requests: Sequence[tuple[str, dict[str, Any]]]) -> list[httpx.Response]:
    """Send all requests over a connection each; httpx needs seconds to manage 200 in one pool."""
    async with contextlib.AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(httpx.AsyncClient(base_url=url, timeout=30, trust_env=False, verify=False))  # noqa: S501 - no TLS
            for _ in range(10)
        ]
        asking = [clients[number % 10].post(path, **sent) for number, (path, sent) in enumerate(requests)]
        return await asyncio.gather(*asking)


async def test_two_hundred_at_once_are_all_answered_and_kept_once(running: Running) -> None:
    running.answering.set()
    names = [f"r{number}" for number in range(200)]
    sent: list[dict[str, Any]] = [
        {"content": picture((n + 1, 8)), "headers": {**JPEG, "X-Request-Id": name}} for n, name in enumerate(names)
    ]
    waiting = [(f"/v1/frames?wait={20 * (n % 2)}", request) for n, request in enumerate(sent)]
    responses = await ask_at_once(running.url, waiting)
    assert [response.status_code for response in responses] == [202, 200] * 100
    again = await ask_at_once(running.url, [("/v1/frames?wait=20", request) for request in sent])
    assert [(response.status_code, response.json()["result"]) for response in again] == [(200, "No-Face")] * 200
    assert sorted(await history(running)) == sorted(names)
    assert running.feed.waiters == 0


async def test_an_id_with_other_content_is_a_conflict(running: Running) -> None:
    assert (await running.post("r1", picture())).status_code == 202
    response = await running.post("r1", picture((9, 9)))
    assert (response.status_code, response.json()["code"]) == (409, "id_conflict")
    enrolling = await running.client.post("/v1/people/Ada/faces", content=picture(), headers={"X-Request-Id": "r1"})
    assert enrolling.status_code == 409


async def test_clients_that_hang_up_leave_nothing_behind(running: Running) -> None:
    await running.post("r1", picture())
    polls = [asyncio.create_task(running.client.get("/v1/results/r1?wait=30")) for _ in range(20)]
    posts = [asyncio.create_task(running.post(f"p{number}", picture((9, 9)), 30)) for number in range(20)]
    streams = [asyncio.create_task(running.client.get("/v1/events")) for _ in range(20)]
    await until(lambda: running.feed.waiters == 40 and running.feed.subscribers == 20)
    for task in (*polls, *posts, *streams):
        task.cancel()
    await until(lambda: running.feed.waiters == running.feed.subscribers == 0)


async def test_events_come_as_they_happen_and_from_where_one_left_off(running: Running) -> None:
    running.answering.set()
    async with asyncio.timeout(20):
        async with aconnect_sse(running.client, "GET", "/v1/events") as source:
            events = source.aiter_sse()
            await running.post("r1", picture())
            first = await anext(events)
            assert (first.event, first.json()["request_id"]) == ("result", "r1")
        await running.post("r2", picture((9, 9)), 20)
        resumed = {"Last-Event-ID": first.id}
        async with aconnect_sse(running.client, "GET", "/v1/events", headers=resumed) as source:
            assert (await anext(source.aiter_sse())).json()["request_id"] == "r2"


async def test_a_stop_ends_streams_and_long_polls_at_once(running: Running) -> None:
    await running.post("r1", picture())
    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        polling = tasks.create_task(running.client.get("/v1/results/r1?wait=30"))
        streaming = tasks.create_task(running.client.get("/v1/events"))
        await until(lambda: running.feed.waiters and running.feed.subscribers)
        running.stop.set()
    assert polling.result().json()["status"] == "pending"
    assert streaming.result().status_code == 200


async def test_a_stop_refuses_an_upload_that_is_still_arriving(
    running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    url = httpx.URL(running.url)
    head = f"POST /v1/frames HTTP/1.1\r\nHost: {url.host}\r\nContent-Type: image/jpeg\r\nContent-Length: 5000\r\n"
    reader, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(head.encode() + b"Expect: 100-continue\r\n\r\n")
    async with asyncio.timeout(5):
        assert b" 100 " in await reader.readuntil(b"\r\n\r\n")
        writer.write(picture())
        assert (await running.client.get("/healthz")).status_code == 200
        running.stop.set()
        answer = await reader.read()
    writer.close()
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"retry-after: 2\r\n" in answer.lower()
    assert b'"overloaded"' in answer
    assert not [record for record in caplog.records if record.exc_info]


async def test_a_body_far_over_the_limit_is_told_so(running: Running) -> None:
    response = await running.client.post("/v1/frames", content=bytes(60_000_000), headers=JPEG)
    assert (response.status_code, response.json()["code"]) == (413, "too_large")
    assert (await running.client.get("/healthz")).status_code == 200


@pytest.mark.parametrize("target", ["/v1/people/../faces", "/v1/people/%2e%2e/faces", "/v1/people/a%2fb/faces"])
async def test_paths_are_not_resolved(running: Running, target: str) -> None:
    url = httpx.URL(running.url)
    reader, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(f"POST {target} HTTP/1.1\r\nHost: {url.host}\r\nContent-Length: 0\r\n\r\n".encode())
    async with asyncio.timeout(5):
        status = await reader.readline()
    writer.close()
    await writer.wait_closed()
    assert b" 422 " in status


async def test_a_request_without_an_answer_is_lost_in_the_end(running: Running) -> None:
    await running.post("r1", picture())
    impatient = GatewaySettings.read(answer_deadline_seconds=0.001)
    async with asyncio.timeout(5):
        while (await running.client.get("/v1/results/r1")).json()["status"] == "pending":
            await mark_lost(impatient, running.results, LocalNotifier(running.feed, publish_nothing))
    assert (await running.client.get("/v1/results/r1")).json()["error"]["code"] == "lost"


async def test_metrics_know_the_queues(running: Running) -> None:
    await running.post("r1", picture())
    text = (await running.client.get("/metrics")).text
    assert 'facewire_queue_messages{queue="inbox",state="waiting"} 1.0' in text


def test_a_taken_port_is_one_clear_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = GatewaySettings.read(port=taken.getsockname()[1])
        with pytest.raises(SettingsError, match=f"127.0.0.1:{settings.port}: Address already in use"):
            listen(settings, keys_required=False)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "example.com"])  # noqa: S104 - refused
def test_without_keys_only_loopback_is_listened_on(host: str) -> None:
    with pytest.raises(SettingsError, match="not loopback"):
        listen(GatewaySettings.read(host=host, port=0), keys_required=False)


def test_with_keys_every_address_may_be() -> None:
    settings = GatewaySettings.read(host="0.0.0.0", port=0)  # noqa: S104 - the point
    with contextlib.closing(listen(settings, keys_required=True)) as listener:
        assert listener.getsockname()[1]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    made, key = folder / "cert.pem", folder / "key.pem"
    what = ["-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
    try:
        command = ["openssl", "req", "-x509", *what, "-keyout", str(key), "-out", str(made)]
        subprocess.run(command, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("needs openssl to make a certificate")
    return made, key


async def test_a_certificate_makes_it_https(tmp_path: Path, certificate: tuple[Path, Path]) -> None:
    made, key = certificate
    async with serving(tmp_path, tls_cert_file=made, tls_key_file=key) as running:
        assert running.url.startswith("https://")
        assert (await running.client.get("/healthz")).json() == {"status": "alive"}


def test_a_wrong_certificate_is_one_clear_line(tmp_path: Path, certificate: tuple[Path, Path]) -> None:
    made, key = certificate
    nothing = tmp_path / "none.pem"
    for wrong in ({"tls_cert_file": nothing}, {"tls_cert_file": key, "tls_key_file": made}, {"tls_key_file": key}):
        with pytest.raises(SettingsError, match="tls_cert_file"):
            listen(GatewaySettings.read(port=0, **wrong), keys_required=False)


async def test_keys_are_asked_for_over_the_wire(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    file.write_text('{"keys": []}')
    assert KeyRing(file).required
    async with serving(tmp_path, keys_file=file) as running:
        assert (await running.client.get("/v1/people")).status_code == 401
