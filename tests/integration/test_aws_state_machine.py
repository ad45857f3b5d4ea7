"""What the state machine of deploy/aws does with errors: it runs in the stack, with small functions in place of ours.

A picture holds what becomes of it: the name of the error that its recognition or its storing ends in, and how often.
"""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from aws_emulator import PROGRAM as MINISTACK
from aws_stack import IMAGE, Cloud, deploy, guarded_cloud

FUNCTIONS = """
import collections, json, os
import botocore.session

calls = collections.Counter()

class DecodeError(Exception): pass
class StoreError(Exception): pass
Timedout = type("Sandbox.Timedout", (Exception,), {})
ERRORS = {kind.__name__: kind for kind in (DecodeError, StoreError, Timedout)}

def client(service):
    return botocore.session.get_session().create_client(service, region_name=os.environ["FACEWIRE_REGION"])

def fail(story, key, step):
    error, times = story.get(step, ("", 0))
    calls[key, step] += 1
    if calls[key, step] <= times:
        raise ERRORS[error](f"attempt {calls[key, step]}")

def ingest_detect(event, context):
    body = client("s3").get_object(Bucket=event["bucket"], Key=event["key"])["Body"].read()
    story = json.loads(body)
    if "reads" in story:
        client("s3").get_object(Bucket=event["bucket"], Key=story["reads"])
    fail(story, event["key"], "recognise")
    return {"story": story, "attempts": calls[event["key"], "recognise"]}

def ingest_store(event, context):
    if "answer" in event:
        fail(event["answer"]["story"], event["key"], "store")
    name = event["key"].rpartition("/")[2]
    client("s3").put_object(Bucket=event["bucket"], Key=f"processed/{name}", Body=json.dumps(event).encode())
"""
_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class Ingestion:
    """The deployed stack, and what came of a picture."""

    cloud: Cloud
    outputs: dict[str, str]

    def of(self, name: str, story: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Put a picture of that name under input/; return how its execution ended, and what was stored."""
        s3 = self.cloud.client("s3")
        s3.put_object(Bucket=self.outputs["BucketName"], Key=f"input/{name}", Body=json.dumps(story).encode())
        execution = self._ended(f"input/{name}")
        stored = s3.get_object(Bucket=self.outputs["BucketName"], Key=f"processed/{name}")["Body"].read()
        return execution, json.loads(stored)

    def _ended(self, key: str) -> dict[str, Any]:
        states = self.cloud.client("stepfunctions")
        deadline = time.monotonic() + _SECONDS
        while time.monotonic() < deadline:
            for listed in states.list_executions(stateMachineArn=self.outputs["StateMachineArn"])["executions"]:
                execution: dict[str, Any] = states.describe_execution(executionArn=listed["executionArn"])
                if json.loads(execution["input"])["key"] == key and execution["status"] != "RUNNING":
                    return execution
            time.sleep(0.05)
        pytest.fail(f"no execution for {key} has ended within {_SECONDS} s")


@pytest.fixture(scope="module")
def ingestion(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ingestion]:
    if not MINISTACK.exists():
        pytest.skip("needs ministack in .venv-ministack: make setup")
    folder = tmp_path_factory.mktemp("stack")
    _write_functions(folder / "code")
    with guarded_cloud(folder) as cloud:
        yield Ingestion(cloud, deploy(cloud, "facewire", {"ImageUri": IMAGE}, code=[folder / "code"]))


def _write_functions(code: Path) -> None:
    package = code / "facewire_lambda"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "ingest.py").write_text(FUNCTIONS)


def test_a_picture_is_recognised_and_stored(ingestion: Ingestion) -> None:
    execution, stored = ingestion.of("Ada Lovelace & co.jpg", {})
    assert execution["status"] == "SUCCEEDED"
    assert stored == {
        "bucket": ingestion.outputs["BucketName"],
        "key": "input/Ada Lovelace & co.jpg",
        "answer": {"story": {}, "attempts": 1},
    }


def test_a_passing_error_is_tried_again(ingestion: Ingestion) -> None:
    execution, stored = ingestion.of("passing.jpg", {"recognise": ["StoreError", 2], "store": ["StoreError", 3]})
    assert execution["status"] == "SUCCEEDED"
    assert stored["answer"]["attempts"] == 3


def test_a_broken_picture_is_tried_once_and_recorded(ingestion: Ingestion) -> None:
    execution, stored = ingestion.of("broken.jpg", {"recognise": ["DecodeError", 99]})
    assert (execution["status"], execution["error"]) == ("FAILED", "DecodeError")
    assert stored["error"]["Error"] == "DecodeError"
    assert "attempt 1" in stored["error"]["Cause"]


def test_an_error_that_stays_is_recorded_after_five_attempts(ingestion: Ingestion) -> None:
    execution, stored = ingestion.of("down.jpg", {"recognise": ["StoreError", 99]})
    assert (execution["status"], execution["error"]) == ("FAILED", "StoreError")
    assert "attempt 5" in stored["error"]["Cause"]


def test_a_picture_that_ends_the_function_is_tried_twice_and_recorded(ingestion: Ingestion) -> None:
    execution, stored = ingestion.of("vast.jpg", {"recognise": ["Sandbox.Timedout", 99]})
    assert (execution["status"], execution["error"]) == ("FAILED", "Sandbox.Timedout")
    assert "attempt 2" in stored["error"]["Cause"]


def test_an_answer_that_cannot_be_stored_is_recorded_as_failed(ingestion: Ingestion) -> None:
    execution, stored = ingestion.of("full.jpg", {"store": ["StoreError", 99]})
    assert (execution["status"], execution["error"]) == ("FAILED", "StoreError")
    assert stored.keys() == {"bucket", "key", "error"}


def test_a_function_reads_no_more_than_its_role_allows(ingestion: Ingestion) -> None:
    ingestion.cloud.client("s3").put_object(Bucket=ingestion.outputs["BucketName"], Key="greengrass/a.zip", Body=b"")
    execution, stored = ingestion.of("curious.jpg", {"reads": "greengrass/a.zip"})
    assert execution["status"] == "FAILED"
    assert "AccessDenied" in stored["error"]["Cause"]
