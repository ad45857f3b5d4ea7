"""The client of the HTTP API against answers written by hand."""

import json
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import pytest

from facewire.domain.errors import SettingsError
from facewire.domain.messages import RecognizedFaces
from facewire_standalone.commands.client import Client, ClientError, Picture, read_events, readable

PICTURE = Picture("her.jpg", b"\xff\xd8\xffnot much of a picture")
ANSWER = RecognizedFaces(request_id="r1", result="Ada").to_bytes()


def client_of(handler: Callable[[httpx.Request], httpx.Response]) -> Client:
    return Client(httpx.AsyncClient(base_url="http://api", transport=httpx.MockTransport(handler)))


def problem(status: int, code: str, detail: str) -> httpx.Response:
    return httpx.Response(status, json={"title": "no", "status": status, "code": code, "detail": detail})


async def lines_of(*lines: str) -> AsyncIterator[str]:
    for line in lines:
        yield line


async def test_a_picture_is_submitted_with_its_id_and_camera() -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(202, json={"request_id": "r1", "status": "pending"})

    await client_of(answer).submit(PICTURE, request_id="r1", camera="door")
    assert seen[0].url.path == "/v1/frames"
    assert seen[0].url.params["camera"] == "door"
    assert seen[0].headers["X-Request-Id"] == "r1"
    assert PICTURE.content in seen[0].content
    assert b'filename="her.jpg"' in seen[0].content


async def test_a_result_is_none_while_pending_and_then_the_answer() -> None:
    bodies = [json.dumps({"request_id": "r1", "status": "pending"}).encode(), ANSWER]
    client = client_of(lambda _: httpx.Response(200, content=bodies.pop(0)))
    assert await client.result("r1") is None
    answer = await client.result("r1")
    assert answer is not None
    assert answer.result == "Ada"


async def test_an_id_is_one_part_of_the_path() -> None:
    paths: list[bytes] = []

    def answer(request: httpx.Request) -> httpx.Response:
        paths.append(request.url.raw_path)
        return httpx.Response(200, content=ANSWER)

    await client_of(answer).result("a b?c%", wait=2.5)
    assert paths == [b"/v1/results/a%20b%3Fc%25?wait=2.5"]


async def test_a_problem_becomes_an_error_with_code_detail_and_status() -> None:
    client = client_of(lambda _: problem(413, "too_large", "at most 10 MiB"))
    with pytest.raises(ClientError, match="client: too_large: at most 10 MiB") as caught:
        await client.submit(PICTURE, request_id="r1")
    assert caught.value.status == 413
    assert not caught.value.concerns_every_call


async def test_a_refused_key_concerns_every_call() -> None:
    client = client_of(lambda _: problem(401, "missing_key", "send a key"))
    with pytest.raises(ClientError) as caught:
        await client.result("r1")
    assert caught.value.concerns_every_call


async def test_a_page_that_is_no_problem_json_is_told_by_its_status() -> None:
    client = client_of(lambda _: httpx.Response(502, text="<html>bad gateway"))
    with pytest.raises(ClientError, match="client: 502: Bad Gateway"):
        await client.result("r1")


async def test_nobody_listening_says_what_to_do() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        message = "connection refused"
        raise httpx.ConnectError(message, request=request)

    with pytest.raises(ClientError, match=r"no answer from http://api \(connection refused\): is `") as caught:
        await client_of(refuse).result("r1")
    assert caught.value.concerns_every_call


async def test_something_else_than_an_answer_is_named() -> None:
    client = client_of(lambda _: httpx.Response(200, json={"status": "done", "request_id": "r1"}))
    with pytest.raises(ClientError, match="bad_answer: result: Field required"):
        await client.result("r1")


async def test_events_carry_answers_and_gaps() -> None:
    stream = b": hello\n\nid: 1\nevent: result\ndata: " + ANSWER + b"\n\nevent: overflow\ndata: {}\n\n"
    client = client_of(lambda _: httpx.Response(200, content=stream))
    events = [event async for event in client.events()]
    assert [event.name for event in events] == ["open", "result", "overflow"]
    assert events[1].answer is not None
    assert events[1].answer.result == "Ada"


async def test_a_refused_event_stream_is_an_error() -> None:
    client = client_of(lambda _: problem(403, "missing_role", "this needs a key of role read"))
    with pytest.raises(ClientError, match="missing_role"):
        await anext(client.events())


async def test_events_are_read_as_the_standard_says() -> None:
    lines = lines_of("event: a", "data: 1", "data:2", "", "data: 3", "", ": comment", "", "retry: 5", "event: b", "")
    assert [event async for event in read_events(lines)] == [("a", "1\n2"), ("message", "3")]


@pytest.mark.parametrize("url", ["http://[::1", "http://a..b", "http://\udcfc", "api:8080", "http://", "ftp://api"])
async def test_what_is_no_address_is_a_wrong_setting(url: str) -> None:
    with pytest.raises(SettingsError, match=r"^settings: url: .* is no address: .+$"):
        await Client.open(url).__aenter__()


@pytest.mark.parametrize("url", ["http://[::1]:8080", "https://api.example/facewire", "http://127.0.0.1:1"])
async def test_an_address_is_taken(url: str) -> None:
    async with Client.open(url, "some-key"):
        pass


@pytest.mark.parametrize("key", ["schlüssel", "two\nlines", "\udcfc"])
async def test_what_cannot_be_a_key_is_a_wrong_setting_and_not_shown(key: str) -> None:
    with pytest.raises(SettingsError, match=r"^settings: key: ") as caught:
        await Client.open("http://api", key).__aenter__()
    assert key not in str(caught.value)


def test_a_file_whose_name_is_not_utf_8_has_a_readable_one(tmp_path: Path) -> None:
    file = tmp_path / os.fsdecode(b"caf\xe9.jpg")
    with pytest.raises(ClientError, match="caf\ufffd\\.jpg: No such file"):
        Picture.read(file)
    file.write_bytes(b"picture")
    assert Picture.read(file) == Picture("caf\ufffd.jpg", b"picture")
    assert readable(file) == f"{tmp_path}/caf\ufffd.jpg"


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ClientError, match=r"unreadable_file: .*absent\.jpg: No such file"):
        Picture.read(tmp_path / "absent.jpg")
