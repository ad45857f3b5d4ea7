"""Bad input: each gets its clear answer, and the service goes on."""

import asyncio
import base64
import io
import json
import uuid
from collections.abc import Iterator

import httpx
import pytest
from PIL import Image

from facewire.domain.errors import QueueError
from facewire.domain.messages import RecognizedFaces, sha256
from facewire.domain.names import raw_frame_id
from facewire.runtime.settings import MqttSettings
from facewire_standalone.child import Child
from facewire_standalone.commands.camera import Camera
from facewire_standalone.commands.client import Picture

#: Recognizers see a change of the gallery within 2 s; the rest is for a busy machine.
JPEG = {"Content-Type": "image/jpeg"}


@pytest.fixture(autouse=True)
def _still_serving(api: httpx.Client, small_portrait: bytes) -> Iterator[None]:
    """Check after each test that the service is up and still finds a face."""
    yield
    assert api.get("/readyz").status_code == 200
    answer = api.post("/v1/frames", params={"wait": 30}, content=small_portrait, headers=JPEG)
    assert answer.status_code == 200
    assert len(answer.json()["faces"]) == 1


def png_bomb() -> bytes:
    """Return 100 megapixels in less than 50 kB."""
    buffer = io.BytesIO()
    Image.new("1", (10_000, 10_000)).save(buffer, "PNG", optimize=True)
    assert len(buffer.getvalue()) < 50_000
    return buffer.getvalue()


def assert_problem(answer: httpx.Response, status: int, code: str, *words: str) -> None:
    assert answer.headers["Content-Type"].startswith("application/problem+json")
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (status, code), answer.text
    assert problem["request_id"]
    for word in words:
        assert word in problem["detail"]


def test_an_empty_body(api: httpx.Client) -> None:
    assert_problem(api.post("/v1/frames", content=b"", headers=JPEG), 422, "empty_body", "empty")


def test_not_an_image(api: httpx.Client) -> None:
    answer = api.post("/v1/frames", content=b"MZ this is a program", headers=JPEG)
    assert_problem(answer, 422, "not_an_image")


def test_a_truncated_picture_is_taken_and_answered_as_failed(api: httpx.Client, portrait: bytes) -> None:
    answer = api.post("/v1/frames", params={"wait": 30}, content=portrait[: len(portrait) // 2], headers=JPEG)
    assert answer.status_code == 200
    assert answer.json()["status"] == "failed"
    assert answer.json()["result"] == "Failed"
    assert (answer.json()["error"]["stage"], answer.json()["error"]["code"]) == ("decode", "truncated_image")


def test_too_many_pixels_are_refused_from_the_header(api: httpx.Client) -> None:
    answer = api.post("/v1/frames", content=png_bomb(), headers={"Content-Type": "image/png"})
    assert_problem(answer, 413, "image_too_large", "40")


def test_too_many_bytes(api: httpx.Client, portrait: bytes) -> None:
    answer = api.post("/v1/frames", content=portrait + bytes(11 * 1024 * 1024), headers=JPEG)
    assert_problem(answer, 413, "too_large", "10,485,760")


def test_wrong_base64(api: httpx.Client) -> None:
    answer = api.post("/v1/frames", json={"request_id": "wrong-base64", "content": "=%="})
    assert_problem(answer, 422, "bad_request", "content", "base64")


def test_missing_fields(api: httpx.Client) -> None:
    assert_problem(api.post("/v1/frames", json={"filename": "a.jpg"}), 422, "bad_request", "content")


@pytest.mark.parametrize("request_id", ["a/b", "a+b", "#", "x" * 129])
def test_a_wrong_request_id(api: httpx.Client, small_portrait: bytes, request_id: str) -> None:
    content = base64.b64encode(small_portrait).decode()
    answer = api.post("/v1/frames", json={"request_id": request_id, "content": content})
    assert_problem(answer, 422, "bad_request", "request_id")


@pytest.mark.parametrize("name", ["a%2Fb", "%2E%2E", "%2e", "a%07b", "a%0Ab", "%E2%80%AE", "x" * 300, "%20"])
def test_a_wrong_name(api: httpx.Client, small_portrait: bytes, name: str) -> None:
    answer = api.post(f"/v1/people/{name}/faces", content=small_portrait, headers=JPEG)
    assert answer.status_code == 422
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json()["detail"]
    assert api.get("/v1/people").json()["people"] == []


def test_an_unknown_request(api: httpx.Client) -> None:
    assert_problem(api.get(f"/v1/results/{uuid.uuid4()}"), 404, "unknown_request")


def test_the_same_id_with_other_content(api: httpx.Client, portrait: bytes, small_portrait: bytes) -> None:
    name = {"X-Request-Id": str(uuid.uuid4()), **JPEG}
    assert api.post("/v1/frames", content=small_portrait, headers=name).status_code == 202
    assert api.post("/v1/frames", content=small_portrait, headers=name).status_code == 202
    assert_problem(api.post("/v1/frames", content=portrait, headers=name), 409, "id_conflict")


def test_a_deleted_person_is_gone_everywhere(api: httpx.Client, portrait: bytes) -> None:
    def recognised() -> httpx.Response:
        return api.post("/v1/frames", params={"wait": 30}, content=portrait, headers=JPEG)

    assert api.post("/v1/people/Eileen/faces", content=portrait, headers=JPEG).status_code == 201
    assert recognised().json()["result"] == "Eileen"
    assert api.delete("/v1/people/Eileen").status_code in {200, 204}
    assert_problem(api.get("/v1/people/Eileen"), 404, "not_enrolled")
    assert_problem(api.delete("/v1/people/Eileen"), 404, "not_enrolled")
    assert api.get("/v1/results", params={"person": "Eileen"}).json()["results"] == []
    assert "Eileen" not in api.get("/v1/results", params={"limit": 100}).text
    assert recognised().json()["result"] == "Unknown"
    assert "Eileen" not in api.get("/v1/results", params={"limit": 100}).text


def test_no_such_page(api: httpx.Client) -> None:
    assert_problem(api.get("/v2/frames"), 404, "no_such_page")


class TestOverMqtt:
    """The same over MQTT: a refusal is an answer on the camera's results topic."""

    @staticmethod
    async def answer_to(served: Child, payload: bytes) -> RecognizedFaces:
        settings = MqttSettings.read(mqtt_host=served.mqtt_host, mqtt_port=served.mqtt_port)
        name = f"bad-{uuid.uuid4()}"
        async with asyncio.timeout(30), Camera.open(settings, name) as camera:
            await camera.send_raw(payload)
            answer = await anext(camera.answers())
        assert answer.camera == name
        return answer

    @pytest.mark.parametrize(
        ("payload", "code", "word"),
        [
            (b"", "empty_body", "empty"),
            (b"{}", "bad_request", "request_id"),
            (b'{"request_id": "r", "content": "=%="}', "bad_request", "base64"),
            (b'{"request_id": "a/b", "content": "aGFsbG8="}', "bad_request", "request_id"),
            (b'{"request_id": "mqtt-text", "content": "aGFsbG8="}', "not_an_image", ""),
            (b"\xff\xfe\x00 neither JSON nor a picture", "bad_request", ""),
        ],
    )
    async def test_what_is_no_frame_is_answered(self, served: Child, payload: bytes, code: str, word: str) -> None:
        answer = await self.answer_to(served, payload)
        assert (answer.status, answer.result) == ("failed", "Failed")
        assert answer.error is not None
        assert answer.error.code == code
        assert word in answer.error.detail

    async def test_a_payload_without_a_readable_id_is_answered_under_its_own(self, served: Child) -> None:
        payload = b"{ no json"
        answer = await self.answer_to(served, payload)
        assert answer.request_id == raw_frame_id(answer.camera or "", sha256(payload))

    async def test_an_enrolment_over_a_camera_is_refused(self, served: Child, small_portrait: bytes) -> None:
        frame = {"request_id": "sly", "enroll_as": "Eve", "content": base64.b64encode(small_portrait).decode()}
        answer = await self.answer_to(served, json.dumps(frame).encode())
        assert answer.error is not None
        assert answer.error.code == "enroll_refused"

    async def test_a_frame_over_ten_mebibytes_is_answered(self, served: Child, portrait: bytes) -> None:
        answer = await self.answer_to(served, portrait + bytes(11 * 1024 * 1024))
        assert answer.error is not None
        assert answer.error.code == "too_large"

    async def test_a_payload_over_the_brokers_limit_ends_only_its_own_connection(self, served: Child) -> None:
        settings = MqttSettings.read(mqtt_host=served.mqtt_host, mqtt_port=served.mqtt_port)
        async with Camera.open(settings, "huge") as camera:
            with pytest.raises(QueueError, match="16,777,300 bytes"):
                await camera.send_raw(bytes(16_777_300))

    async def test_the_same_id_with_other_content_is_told_to_the_camera(
        self, served: Child, api: httpx.Client, portrait: bytes, small_portrait: bytes
    ) -> None:
        settings = MqttSettings.read(mqtt_host=served.mqtt_host, mqtt_port=served.mqtt_port)
        request_id = str(uuid.uuid4())
        async with asyncio.timeout(30), Camera.open(settings, "twice") as camera:
            await camera.send(Picture("a.jpg", small_portrait), request_id)
            first = await anext(camera.answers())
            await camera.send(Picture("b.jpg", portrait), request_id)
            second = await anext(camera.answers())
        assert first.status == "done"
        assert second.error is not None
        assert second.error.code == "id_conflict"
        stored = await asyncio.to_thread(api.get, f"/v1/results/{request_id}")
        assert stored.json()["status"] == "done"
