"""A client of earlier deployments, unchanged: it POSTs to the Function URL, polls the response queue, reads `result`.

Each function knows nothing but the settings that those deployments give it. The emulator of AWS has Function URL,
queues and event source mapping; the functions run in its workers, or under the real runtime interface emulator behind
it.
FACEWIRE_OLD_CLIENT_FRAMES=100 sends that many, one each second, as a camera would.
"""

import base64
import csv
import itertools
import json
import os
import statistics
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from botocore.session import get_session  # type: ignore[import-untyped]

from facewire.adapters.gallery_file import GalleryRows, write_gallery
from facewire.domain.gallery import Gallery
from facewire.domain.messages import UNKNOWN, Frame
from facewire.stages.detect import FaceDetector
from facewire.stages.recognize import FaceRecognizer
from facewire.vision.models import DEFAULT_EMBEDDER, find, load_detector, load_embedder
from lambda_host import code, python_path, runtime

FRAMES = int(os.environ.get("FACEWIRE_OLD_CLIENT_FRAMES", "16"))
SECONDS_BETWEEN = 1.0 if "FACEWIRE_OLD_CLIENT_FRAMES" in os.environ else 0.0
ANSWER_SECONDS = 60.0
pytestmark = pytest.mark.timeout(180 + 2 * FRAMES)


@dataclass
class Deployment:
    """Where the client sends frames and reads answers."""

    function_url: str
    response_queue: str
    sqs: Any


@dataclass
class OldClient:
    """Knows of a request its id, and of an answer `request_id` and `result`."""

    deployment: Deployment
    sent: dict[str, float] = field(default_factory=dict)
    results: dict[str, str] = field(default_factory=dict)
    latencies: list[float] = field(default_factory=list)

    def send(self, picture: Path) -> str:
        request_id = str(uuid.uuid4())
        content = base64.b64encode(picture.read_bytes()).decode()
        body = {"request_id": request_id, "filename": picture.name, "content": content}
        self.sent[request_id] = time.monotonic()
        response = httpx.post(self.deployment.function_url, json=body, timeout=60)
        assert response.status_code == 200, response.text
        return request_id

    def poll(self, seconds: int) -> None:
        queue = self.deployment.response_queue
        answer = self.deployment.sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10, WaitTimeSeconds=seconds)
        for message in answer.get("Messages", []):
            body = json.loads(message["Body"])
            if body["request_id"] in self.sent and body["request_id"] not in self.results:
                self.results[body["request_id"]] = body["result"]
                self.latencies.append(time.monotonic() - self.sent[body["request_id"]])
            self.deployment.sqs.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])

    def poll_until(self, moment: float) -> None:
        """Read answers until then; the queue is asked at least once."""
        self.poll(0)
        while time.monotonic() < moment:
            self.poll(1)


@pytest.fixture(scope="module")
def labels(shared_data: Path) -> dict[str, str]:
    """Return who is on which frame."""
    with (shared_data / "frames" / "labels.csv").open() as file:
        return {row["Image"]: row["Results"] for row in csv.DictReader(file)}


@pytest.fixture(scope="module")
def gallery_file(shared_data: Path, labels: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write embeddings and names of everybody's first frame, as `facewire gallery export` does."""
    detector, recognizer = FaceDetector(load_detector()), FaceRecognizer(load_embedder(DEFAULT_EMBEDDER))
    empty = Gallery.empty(recognizer.embedder.spec.dimension)
    names, embeddings = [], []
    for file, person in labels.items():
        if file.endswith("_0.jpg"):
            content = (shared_data / "frames" / file).read_bytes()
            [found] = recognizer([detector(Frame.of(content, request_id=file, enroll_as=person))], empty)
            assert found.enrolled is not None
            names.append(person)
            embeddings.append(np.frombuffer(found.enrolled.embedding, "<f4").astype(np.float32))
    path = tmp_path_factory.mktemp("gallery") / "weights.npz"
    write_gallery(path, GalleryRows(DEFAULT_EMBEDDER, tuple(names), np.stack(embeddings)))
    return path


@pytest.fixture(params=["workers", "runtime interface emulator"])
def deployment(
    request: pytest.FixtureRequest, aws_environment: str, gallery_file: Path, tmp_path: Path
) -> Iterator[Deployment]:
    name = f"old-{uuid.uuid4().hex[:8]}"
    session = get_session()
    sqs, functions = (session.create_client(service) for service in ("sqs", "lambda"))
    urls = [sqs.create_queue(QueueName=f"{name}-{kind}-queue")["QueueUrl"] for kind in ("req", "resp")]
    told = {
        "fd": {"REGION": "us-east-1", "SQS_REQUEST_QUEUE_URL": urls[0]},
        "fr": {
            "REGION": "us-east-1",
            "SQS_RESPONSE_QUEUE_URL": urls[1],
            "MODEL_PATH": str(find(DEFAULT_EMBEDDER)),
            "MODEL_WT_PATH": str(gallery_file),
        },
    }
    with ExitStack() as opened:
        for kind, settings in told.items():
            if request.param == "workers":
                settings["PYTHONPATH"] = python_path()
            else:
                running = runtime(f"{kind}_lambda.lambda_handler", settings, tmp_path / f"{kind}.log")
                settings["MINISTACK_LAMBDA_PROXY_URL"] = opened.enter_context(running).url
            functions.create_function(
                FunctionName=f"{name}-{kind}",
                Runtime="python3.11",
                Role="arn:aws:iam::000000000000:role/lambda-exec-role",
                Handler=f"{kind}_lambda.lambda_handler",
                Code={"ZipFile": code()},
                Timeout=60,
                MemorySize=1769,
                Environment={"Variables": settings},
            )
        functions.create_event_source_mapping(
            EventSourceArn=f"arn:aws:sqs:us-east-1:000000000000:{name}-req-queue",
            FunctionName=f"{name}-fr",
            BatchSize=10,
            ScalingConfig={"MaximumConcurrency": 2},
        )
        # The emulator under the function takes one event at a time, as a container of AWS does.
        functions.put_function_concurrency(FunctionName=f"{name}-fr", ReservedConcurrentExecutions=1)
        public = functions.create_function_url_config(FunctionName=f"{name}-fd", AuthType="NONE")["FunctionUrl"]
        identifier = httpx.URL(public).host.partition(".")[0]
        yield Deployment(f"{aws_environment}/_aws/lambda-url/{identifier}/", urls[1], sqs)


def test_every_frame_is_answered_with_the_name_on_its_label(
    deployment: Deployment, shared_data: Path, labels: dict[str, str]
) -> None:
    probes = [file for file in labels if not file.endswith("_0.jpg")]
    client = OldClient(deployment)
    expected: dict[str, str] = {}
    for file in itertools.islice(itertools.cycle(probes), FRAMES):
        due = time.monotonic() + SECONDS_BETWEEN
        expected[client.send(shared_data / "frames" / file)] = labels[file]
        client.poll_until(due)
    deadline = time.monotonic() + ANSWER_SECONDS
    while client.results.keys() != expected.keys() and time.monotonic() < deadline:
        client.poll(1)
    assert client.results.keys() == expected.keys()
    wrong = {result for request_id, result in client.results.items() if result not in {expected[request_id], UNKNOWN}}
    right = sum(result == expected[request_id] for request_id, result in client.results.items())
    seconds = statistics.mean(client.latencies)
    print(f"{FRAMES} frames, {right} right, {len(wrong)} wrong, mean latency {seconds:.3f} s")  # noqa: T201 - a figure
    assert wrong == set()
    assert right >= FRAMES * 15 / 16


def test_a_frame_without_a_face_is_answered_at_once(deployment: Deployment, samples: Path) -> None:
    content = base64.b64encode((samples / "cat.jpg").read_bytes()).decode()
    body = {"request_id": "no-face", "filename": "cat.jpg", "content": content}
    response = httpx.post(deployment.function_url, json=body, timeout=60)
    assert (response.status_code, response.json()["faces"], response.json()["result"]) == (200, 0, "No-Face")
