"""The functions, opened as AWS opens them, on an emulator of SQS, S3 and DynamoDB, with the models that ship."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from facewire_lambda.dead_letters import dead_letters
from facewire_lambda.enroll import enroll
from facewire_lambda.function_url import detect
from facewire_lambda.ingest import ingest_detect, ingest_store
from facewire_lambda.request_queue import recognize
from lambda_account import Account, frame, new_account
from lambda_events import object_created

HOPPER, COLLINS = "grace_hopper.jpg", "eileen_collins.jpg"
#: SQS hides a received message for 30 s; ours comes again after about a second.
SOON_SECONDS = 15


@pytest.fixture
def account(aws_environment: str) -> Iterator[Account]:
    with ExitStack() as opened:
        yield Account(new_account(aws_environment), opened)


def test_a_posted_frame_is_named_over_both_queues(account: Account, samples: Path) -> None:
    enroll_function, detect_function = account.function(enroll), account.function(detect)
    account.put("enroll/Grace Hopper/1.jpg", (samples / HOPPER).read_bytes())
    [outcome] = enroll_function(object_created(account.bucket, "enroll/Grace Hopper/1.jpg"))
    assert outcome["face_id"]
    for request_id, file in (("r1", HOPPER), ("r2", COLLINS)):
        assert detect_function(frame(samples, file, request_id))["statusCode"] == 200
    event = account.receive(account.settings.request_queue)
    assert account.function(recognize)(event) == {"batchItemFailures": []}
    assert {answer.request_id: answer.result for answer in account.answers()} == {"r1": "Grace Hopper", "r2": "Unknown"}


def test_a_message_that_failed_comes_again_soon(account: Account, samples: Path) -> None:
    account.function(detect)(frame(samples, HOPPER, "r1"))
    event = account.receive(account.settings.request_queue)
    broken = account.settings.model_copy(update={"response_queues": ("there-is-no-such-queue",)})
    result = Account(broken, account.opened).function(recognize)(event)
    assert result == {"batchItemFailures": [{"itemIdentifier": "m0"}]}
    again = account.receive(account.settings.request_queue, wait=SOON_SECONDS)
    assert again["Records"][0]["attributes"]["ApproximateReceiveCount"] == "2"
    assert account.function(recognize)(again) == {"batchItemFailures": []}
    assert [answer.request_id for answer in account.answers()] == ["r1"]


def test_what_was_given_up_is_recorded_and_answered_once(account: Account, samples: Path) -> None:
    account.function(detect)(frame(samples, HOPPER, "r1"))
    event = account.receive(account.settings.request_queue)
    event["Records"][0]["attributes"]["ApproximateReceiveCount"] = "5"
    broken = account.settings.model_copy(update={"response_queues": ("there-is-no-such-queue",)})
    assert Account(broken, account.opened).function(recognize)(event) == {"batchItemFailures": []}
    dead = account.receive(f"{account.settings.request_queue}-dead")
    given_up = account.function(dead_letters)
    assert given_up(dead) == given_up(dead) == {"batchItemFailures": []}
    [answer] = account.answers()
    assert answer.error is not None
    assert (answer.request_id, answer.error.stage, answer.error.code) == ("r1", "queue", "no_such_queue")
    result = account.result("r1")
    assert result is not None
    assert (result.status, result.answer) == ("failed", answer)


def test_a_picture_in_the_bucket_becomes_a_row_and_an_object(account: Account, samples: Path) -> None:
    account.put("enroll/Grace Hopper/1.jpg", (samples / HOPPER).read_bytes())
    account.function(enroll)({"bucket": account.bucket, "key": "enroll/Grace Hopper/1.jpg"})
    event = account.put("input/door/été 1+1.jpg", (samples / HOPPER).read_bytes())
    answer = account.function(ingest_detect)(event)
    stored = account.function(ingest_store)({**event, "answer": answer})
    line = json.loads(account.content(stored["processed"]))
    assert (line["image_id"], line["camera"], line["result"]) == (stored["request_id"], "door", "Grace Hopper")
    result = account.result(stored["request_id"])
    assert result is not None
    assert (result.status, result.camera) == ("done", "door")


def test_a_broken_picture_ends_as_a_recorded_failure(account: Account) -> None:
    event = account.put("input/broken.jpg", b"\xff\xd8\xff broken")
    with pytest.raises(Exception, match="decode: ") as raised:
        account.function(ingest_detect)(event)
    cause = json.dumps({"errorMessage": str(raised.value), "errorType": raised.type.__name__, "stackTrace": []})
    caught = {"Error": raised.type.__name__, "Cause": cause}
    stored = account.function(ingest_store)({**event, "error": caught})
    result = account.result(stored["request_id"])
    assert result is not None
    assert result.answer is not None
    assert result.answer.error is not None
    assert (result.status, result.answer.error.stage) == ("failed", "decode")
    assert json.loads(account.content(stored["processed"]))["error"]["stage"] == "decode"
