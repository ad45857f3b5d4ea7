"""What goes to strangers and devices names nothing of the server's inside; the log names it."""

import json
from collections.abc import Sequence

import httpx
import pytest
from structlog.testing import capture_logs

from facewire.domain.errors import DetectError, FacewireError, QueueError, RecognizeError, StoreError
from facewire.domain.failures import answer_unread, last_error
from facewire.domain.messages import Frame, RecognizedFaces, failed
from facewire.domain.ports import PartialError
from facewire.runtime.probes import serving_probes
from facewire.runtime.settings import ProbeSettings
from facewire_gateway.api.problems import GatewayError
from facewire_greengrass.requests import Requests
from facewire_lambda.ingest import failure_of
from gateway_fakes import open_bench, picture

ARN = "arn:aws:dynamodb:eu-central-1:123456789012:table/facewire"
ERRORS = [
    StoreError("refused", f"User: arn:aws:sts::123456789012:assumed-role/edge is not authorized on {ARN}"),
    StoreError("no_such_table", f"{ARN} not found: `facewire aws init` makes what is missing"),
    QueueError("unreachable", 'Could not connect to the endpoint URL: "http://10.0.0.7:4566/"'),
    StoreError("disk_full", "/var/lib/facewire/facewire.db: the disk or the file's size limit is reached"),
    QueueError("mqtt_not_connected", "no connection to the MQTT broker 10.0.0.7:8883: try again"),
    StoreError("a_code_that_is_not_known", f"{ARN}, /var/lib/facewire/facewire.db"),
]
each_error = pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.code)


def check_says_nothing(said: str) -> None:
    assert not [part for part in ("123456789012", "10.0.0.7", "/var/lib", "arn:") if part in said]


@each_error
async def test_readyz_of_the_gateway(error: FacewireError) -> None:
    async def lacks() -> str | None:
        raise error

    with capture_logs() as logs:
        async with open_bench(readiness={"store": lacks}) as bench:
            response = await bench.client.get("/readyz")
    assert response.json()["dependencies"]["store"].startswith(f"{error.stage}: {error.code}: ")
    check_says_nothing(response.text)
    assert error.detail in [line.get("detail") for line in logs]


@each_error
async def test_readyz_of_a_worker(error: FacewireError) -> None:
    async def lacks() -> str | None:
        raise error

    with capture_logs() as logs:
        serving = serving_probes(ProbeSettings.read(probe_port=0), readiness={"queue": lacks}, depths={})
        async with serving as url, httpx.AsyncClient() as client:
            response = await client.get(f"{url}/readyz")
    assert error.code in response.json()["dependencies"]["queue"]
    check_says_nothing(response.text)
    assert error.detail in [line.get("detail") for line in logs]


@each_error
async def test_a_problem_of_the_http_api(error: FacewireError) -> None:
    with capture_logs() as logs:
        async with open_bench() as bench:
            bench.sink.refusal = error
            response = await bench.client.post("/v1/frames", content=picture(), headers={"Content-Type": "image/jpeg"})
    assert response.json()["code"] == error.code
    assert response.json()["detail"]
    check_says_nothing(response.text)
    assert error.detail in [line.get("detail") for line in logs]


@each_error
def test_an_answer(error: FacewireError) -> None:
    """It goes to the device over MQTT, to the response queue and into the result store."""
    frame = Frame.of(b"picture", request_id="r1", filename="a.jpg", camera="door")
    for answer in (failed(frame, error, source="edge"), answer_unread(b'{"request_id": "r1"}', error, "cloud")):
        assert answer is not None
        assert answer.error is not None
        assert (answer.error.stage, answer.error.code) == (error.stage, error.code)
        check_says_nothing(answer.to_bytes().decode())
    assert last_error(error, RecognizeError) is error


@each_error
def test_what_a_state_machine_caught(error: FacewireError) -> None:
    caught = {"Error": type(error).__name__, "Cause": json.dumps({"errorMessage": str(error)})}
    failure = failure_of(caught)
    assert (failure.stage, failure.code) == (error.stage, error.code)
    check_says_nothing(failure.model_dump_json())


async def test_the_answer_of_a_core_whose_request_is_refused() -> None:
    class Refusing:
        async def send(self, bodies: Sequence[bytes]) -> None:
            raise PartialError("refused", f"not authorized on {ARN}", left=[], refused=range(len(bodies)))

    class Kept:
        def __init__(self) -> None:
            self.bodies: list[bytes] = []

        async def send(self, bodies: Sequence[bytes]) -> None:
            self.bodies += bodies

    answers = Kept()
    with capture_logs() as logs:
        await Requests(Refusing(), answers).send([b'{"request_id": "r1", "camera": "door", "faces": []}'])
    (body,) = answers.bodies
    check_says_nothing(body.decode())
    assert RecognizedFaces.from_bytes(body).request_id == "r1"
    assert ARN in str(logs)


def test_what_the_sender_has_to_know_is_told() -> None:
    error = DetectError("message_too_large", "the message would have 1,200,000 bytes, a queue takes 1,000,000")
    assert error.public == error.detail
    assert GatewayError("expired", "the answer to 'r1' is no longer kept").public.endswith("no longer kept")
