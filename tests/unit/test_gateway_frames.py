"""POST /v1/frames: what is taken, and what each bad body is told."""

import asyncio
import base64
import os
import struct
import tracemalloc
import uuid
import zlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from facewire.domain.errors import IntakeError, QueueError
from facewire.domain.messages import MAX_FRAME_BYTES
from facewire_gateway.api import upload
from facewire_gateway.api.budget import Bodies, memory_limit, memory_of
from gateway_fakes import Bench, answer, open_bench, picture, until

JPEG = {"Content-Type": "image/jpeg"}
MIB = 1024 * 1024
PHYSICAL = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with open_bench() as bench:
        yield bench


def huge_png(width: int, height: int) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(50_000_000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
async def test_an_image_as_it_is_gets_202_and_a_uuid(bench: Bench, kind: str) -> None:
    content = picture(kind=kind)
    response = await bench.client.post("/v1/frames", content=content, headers={"Content-Type": f"image/{kind.lower()}"})
    body = response.json()
    assert response.status_code == 202
    assert uuid.UUID(body["request_id"]).version == 4
    location = f"/v1/results/{body['request_id']}"
    assert body == {"request_id": body["request_id"], "status": "pending", "location": location}
    assert response.headers["Location"] == location
    [frame] = bench.sink.frames
    assert (frame.content, frame.camera, frame.enroll_as) == (content, None, None)


@pytest.mark.parametrize("field", ["content", "encoded"])
async def test_json_may_say_content_or_encoded(bench: Bench, field: str) -> None:
    said = {"request_id": "r 1", "filename": "a.jpg", field: base64.b64encode(picture()).decode(), "sequence": 7}
    response = await bench.client.post("/v1/frames?camera=door", json=said)
    assert response.json()["location"] == "/v1/results/r%201"
    [frame] = bench.sink.frames
    assert (frame.request_id, frame.filename, frame.camera, frame.content) == ("r 1", "a.jpg", "door", picture())


async def test_a_form_may_name_the_request(bench: Bench) -> None:
    response = await bench.client.post("/v1/frames", files={"file": ("a.jpg", picture())}, data={"request_id": "r1"})
    assert (response.status_code, response.json()["request_id"]) == (202, "r1")
    assert bench.sink.frames[0].filename == "a.jpg"


async def test_the_header_names_the_request_unless_the_body_does(bench: Bench) -> None:
    headers = {"X-Request-Id": "from-header"}
    response = await bench.client.post("/v1/frames", content=picture(), headers={**JPEG, **headers})
    assert response.json()["request_id"] == response.headers["X-Request-Id"] == "from-header"
    said = {"request_id": "from-body", "content": base64.b64encode(picture()).decode()}
    response = await bench.client.post("/v1/frames", json=said, headers=headers)
    assert response.json()["request_id"] == "from-body"


async def test_a_large_image_is_read_in_a_thread(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload, "_INLINE_BYTES", 10)
    said = {"request_id": "r1", "content": base64.b64encode(picture()).decode()}
    assert (await bench.client.post("/v1/frames", json=said)).status_code == 202
    assert bench.sink.frames[0].content == picture()


BAD_BODIES: list[tuple[dict[str, Any], int, str, str]] = [
    ({"content": b"", "headers": JPEG}, 422, "empty_body", "empty"),
    ({"content": b"hello", "headers": JPEG}, 422, "not_an_image", "JPEG, PNG or WebP"),
    ({"content": b"\xff\xd8\xff\xe0", "headers": JPEG}, 422, "not_an_image", "header"),
    ({"content": huge_png(10_000, 10_000), "headers": JPEG}, 413, "image_too_large", "40,000,000"),
    ({"content": huge_png(100_000, 100_000), "headers": JPEG}, 413, "image_too_large", "40,000,000"),
    ({"content": bytes(MAX_FRAME_BYTES + 1), "headers": JPEG}, 413, "too_large", "10,485,760"),
    ({"content": b"a=b", "headers": {"Content-Type": "text/plain"}}, 415, "unsupported_media_type", "image/jpeg"),
    ({"data": {"a": "b"}}, 415, "unsupported_media_type", "multipart/form-data"),
    ({"content": b"", "headers": {"Content-Type": "application/json"}}, 422, "empty_body", "base64"),
    ({"content": b"{", "headers": {"Content-Type": "application/json"}}, 422, "bad_request", "JSON"),
    ({"content": b"\xff", "headers": {"Content-Type": "application/json"}}, 422, "bad_request", "JSON"),
    ({"content": b"[" * 99_999, "headers": {"Content-Type": "application/json"}}, 422, "bad_request", "JSON"),
    ({"json": [1]}, 422, "bad_request", "object"),
    ({"json": {}}, 422, "bad_request", "content"),
    ({"json": {"content": 7}}, 422, "bad_request", "content"),
    ({"json": {"content": "####"}}, 422, "bad_request", "base64"),
    ({"json": {"content": ""}}, 422, "empty_body", "empty"),
    ({"json": {"content": "AAAA"}}, 422, "not_an_image", "JPEG"),
    ({"json": {"content": "AAAA", "enroll_as": "Ada"}}, 422, "enroll_refused", "/v1/people"),
    ({"json": {"content": "AAAA", "request_id": "a/b"}}, 422, "bad_request", "request_id"),
    ({"json": {"content": "AAAA", "request_id": "x" * 129}}, 422, "bad_request", "129 characters"),
    (
        {"content": rb'{"content": "AAAA", "filename": "\ud800"}', "headers": {"Content-Type": "application/json"}},
        *(422, "bad_request", "filename"),
    ),
    ({"json": {"content": "AAAA", "captured_at": "noon"}}, 422, "bad_request", "captured_at"),
    ({"content": picture(), "headers": {**JPEG, "X-Request-Id": "x" * 300}}, 422, "bad_request", "request_id"),
    ({"files": {"picture": ("a.jpg", picture())}}, 422, "bad_multipart", "'file'"),
    ({"files": [("file", ("a.jpg", picture())), ("file", ("b.jpg", picture()))]}, 422, "too_many_images", "2 parts"),
    ({"content": b"--", "headers": {"Content-Type": "multipart/form-data"}}, 422, "bad_multipart", "boundary"),
    ({"files": {"file": ("a.jpg", bytes(MAX_FRAME_BYTES + 1))}}, 413, "too_large", "10,485,760"),
]


@pytest.mark.parametrize(("sent", "status", "code", "advice"), BAD_BODIES)
async def test_bad_bodies_get_a_problem(
    bench: Bench, sent: dict[str, Any], status: int, code: str, advice: str
) -> None:
    response = await bench.client.post("/v1/frames", **sent)
    problem = response.json()
    assert response.headers["Content-Type"] == "application/problem+json"
    assert (response.status_code, problem["status"], problem["code"]) == (status, status, code)
    assert advice in problem["detail"]
    assert problem["title"]
    assert problem["request_id"]
    assert not bench.sink.frames


async def test_a_streamed_body_is_cut_off_at_the_limit(bench: Bench) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 1
            yield bytes(1024 * 1024)

    response = await bench.client.post("/v1/frames", content=endless(), headers=JPEG)
    assert response.json()["code"] == "too_large"
    assert sent <= 12


async def test_a_request_id_cannot_add_headers(bench: Bench) -> None:
    form = {"request_id": "a\r\nSet-Cookie: b=c"}
    response = await bench.client.post("/v1/frames", files={"file": ("a.jpg", picture())}, data=form)
    assert (response.status_code, response.json()["code"]) == (422, "bad_request")
    assert "X-Request-Id" not in response.headers


async def test_the_bytes_of_all_bodies_are_bounded(bench: Bench) -> None:
    bench.bodies.most = memory_of("image/jpeg", 1000)
    taken, go_on = asyncio.Event(), asyncio.Event()

    async def held_back() -> AsyncIterator[bytes]:
        yield picture()
        taken.set()
        await go_on.wait()

    large = picture() + bytes(1000 - len(picture()))
    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        first = tasks.create_task(bench.client.post("/v1/frames", content=held_back(), headers=JPEG))
        await taken.wait()
        refused = await bench.client.post("/v1/frames", content=large, headers=JPEG)
        go_on.set()
    assert (refused.status_code, refused.json()["code"]) == (503, "overloaded")
    assert first.result().status_code == 202
    assert (await bench.client.post("/v1/frames", content=large, headers=JPEG)).status_code == 202


@pytest.mark.parametrize("path", ["/v1/frames?wait=30", "/v1/people/Ada/faces"])
async def test_a_picture_that_is_taken_in_counts_no_longer(bench: Bench, path: str) -> None:
    bench.bodies.most = memory_of("image/jpeg", 1000)
    large = picture() + bytes(1000 - len(picture()))
    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(bench.client.post(path, content=large, headers=JPEG))
        await until(lambda: bench.feed.waiters)
        further = await bench.client.post("/v1/frames", content=large, headers=JPEG)
        bench.feed.close()
    assert (further.status_code, waiting.result().status_code) == (202, 202)
    assert (await bench.client.post("/v1/frames", content=large, headers=JPEG)).status_code == 202
    refused = await bench.client.post("/v1/frames", content=large + b"x", headers=JPEG)
    assert refused.json()["code"] == "overloaded"


MEMORY_LIMITS = [
    ({"memory.max": "536870912\n"}, 536_870_912),
    ({"memory.max": "max\n"}, PHYSICAL),
    ({"memory.max": f"{PHYSICAL * 2}\n"}, PHYSICAL),
    ({"memory/memory.limit_in_bytes": "268435456\n"}, 268_435_456),
    ({"memory/memory.limit_in_bytes": "9223372036854771712\n"}, PHYSICAL),
    ({}, PHYSICAL),
]


@pytest.mark.parametrize(("files", "limit"), MEMORY_LIMITS)
def test_the_memory_is_that_of_the_cgroup_or_of_the_machine(tmp_path: Path, files: dict[str, str], limit: int) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert memory_limit(tmp_path) == limit


def test_bodies_get_half_of_the_memory_and_512_mib_at_most() -> None:
    largest = memory_of("image/jpeg", MAX_FRAME_BYTES)
    assert Bodies(512 * MIB).most // largest == 22
    assert Bodies(512 * MIB).most // memory_of("application/json", MAX_FRAME_BYTES * 4 // 3) == 9
    assert Bodies(256 * MIB).most // largest == 11
    assert Bodies(64 * 1024 * MIB).most == 512 * MIB


async def test_the_upload_that_has_no_room_is_refused_and_those_in_hand_are_taken(bench: Bench) -> None:
    large = picture() + bytes(100_000 - len(picture()))
    bench.bodies.most = 25 * memory_of("image/jpeg", len(large))
    bench.sink.room.clear()
    async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
        taken = [
            tasks.create_task(bench.client.post("/v1/frames", content=large, headers=JPEG), name=f"upload {number}")
            for number in range(25)
        ]
        await until(lambda: bench.sink.arrived == 25)
        refused = await bench.client.post("/v1/frames", content=large, headers=JPEG)
        bench.sink.room.set()
    assert (refused.status_code, refused.json()["code"]) == (503, "overloaded")
    assert refused.headers["Retry-After"] == "2"
    assert [task.result().status_code for task in taken] == [202] * 25
    assert bench.bodies.bytes == 0


async def in_parts(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), 65_536):
        yield body[start : start + 65_536]


def as_json(content: bytes) -> tuple[str, bytes]:
    return "application/json", b'{"content": "' + base64.b64encode(content) + b'"}'


def as_form(content: bytes) -> tuple[str, bytes]:
    head = b'--B\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n\r\n'
    return "multipart/form-data; boundary=B", head + content + b"\r\n--B--\r\n"


def as_it_is(content: bytes) -> tuple[str, bytes]:
    return "image/jpeg", content


@pytest.mark.parametrize("written", [as_json, as_form, as_it_is])
async def test_an_upload_takes_no_more_memory_than_it_counts_for(
    bench: Bench, written: Callable[[bytes], tuple[str, bytes]]
) -> None:
    kind, body = written(picture() + bytes(8 * MIB))
    # A file of a form is read as a copy, one file of all requests at a time.
    apart = 8 * MIB if written is as_form else 0
    await bench.client.post("/v1/frames", content=picture(), headers=JPEG)
    tracemalloc.start()
    try:
        response = await bench.client.post("/v1/frames", content=in_parts(body), headers={"Content-Type": kind})
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert response.status_code == 202
    assert len(body) < peak <= memory_of(kind, len(body)) + apart + MIB


async def test_a_body_that_does_not_arrive_is_given_up(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload, "_BODY_SECONDS", 0.01)

    async def stuck() -> AsyncIterator[bytes]:
        yield b"\xff\xd8\xff"
        await asyncio.Event().wait()

    response = await bench.client.post("/v1/frames", content=stuck(), headers=JPEG)
    assert (response.status_code, response.json()["code"]) == (408, "body_too_slow")


@pytest.mark.parametrize(
    ("refusal", "status", "code"),
    [
        (IntakeError("id_conflict", "used"), 409, "id_conflict"),
        (IntakeError("overloaded", "full"), 503, "overloaded"),
        (QueueError("disk_full", "full"), 503, "disk_full"),
    ],
)
async def test_what_the_inbox_refuses_is_told(bench: Bench, refusal: IntakeError, status: int, code: str) -> None:
    bench.sink.refusal = refusal
    response = await bench.client.post("/v1/frames", content=picture(), headers={**JPEG, "X-Request-Id": "r1"})
    problem = response.json()
    assert (response.status_code, problem["code"], problem["request_id"]) == (status, code, "r1")
    assert ("Retry-After" in response.headers) == (status == 503)


async def test_wait_answers_200_with_the_result(bench: Bench) -> None:
    bench.sink.reply_to(picture(), result="Ada", camera="door")
    response = await bench.client.post("/v1/frames?wait=5", content=picture(), headers={**JPEG, "X-Request-Id": "r1"})
    assert response.status_code == 200
    assert response.json()["result"] == "Ada"
    assert response.headers["Location"] == "/v1/results/r1"


async def test_wait_is_ended_by_the_answer(bench: Bench) -> None:
    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        headers = {**JPEG, "X-Request-Id": "r1"}
        posting = tasks.create_task(bench.client.post("/v1/frames?wait=30", content=picture(), headers=headers))
        await until(lambda: bench.feed.waiters)
        bench.feed.publish([answer("r1", result="Ada")])
    assert posting.result().json()["result"] == "Ada"
    assert bench.feed.waiters == 0


async def test_wait_that_ends_first_answers_202(bench: Bench) -> None:
    response = await bench.client.post("/v1/frames?wait=0.02", content=picture(), headers=JPEG)
    assert (response.status_code, response.json()["status"]) == (202, "pending")
    assert bench.feed.waiters == 0


@pytest.mark.parametrize("path", ["/v1/frames?wait=30", "/v1/people/Ada/faces"])
async def test_what_is_committed_gets_202_whatever_the_wait_runs_into(bench: Bench, path: str) -> None:
    """Told of a failure the client would send it again, and enrol a face twice."""
    bench.results.unreadable.add("r1")
    response = await bench.client.post(path, content=picture(), headers={**JPEG, "X-Request-Id": "r1"})
    assert (response.status_code, response.json()["status"]) == (202, "pending")
    assert response.headers["Location"] == "/v1/results/r1"
    assert len(bench.sink.frames) == 1


async def test_of_several_pictures_those_whose_wait_fails_are_pending(bench: Bench) -> None:
    bench.sink.reply_to(picture(), enrolled={"person": "Ada", "face_id": "f1"})
    bench.results.unreadable_after = 1
    files = [("file", (name, picture(), "image/jpeg")) for name in ("a.jpg", "b.jpg")]
    response = await bench.client.post("/v1/people/Ada/faces", files=files)
    assert response.status_code == 202
    assert [face["status"] for face in response.json()["faces"]] == ["enrolled", "pending"]


@pytest.mark.parametrize(("query", "field"), [("wait=31", "wait"), ("wait=x", "wait"), ("camera=a/b", "camera")])
async def test_wrong_parameters_name_the_field(bench: Bench, query: str, field: str) -> None:
    response = await bench.client.post(f"/v1/frames?{query}", content=picture(), headers=JPEG)
    problem = response.json()
    assert (response.status_code, problem["code"]) == (422, "bad_request")
    assert [fault["field"] for fault in problem["errors"]] == [field]
