"""What each function has to do under the real runtime interface emulator, on this machine as in its image."""

import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from lambda_account import Account, frame
from lambda_events import notification, object_created, sqs
from lambda_host import Runtime

#: Runs the handler of that name in that environment.
Start = Callable[[str, Mapping[str, str]], AbstractContextManager[Runtime]]
HOPPER, COLLINS = "grace_hopper.jpg", "eileen_collins.jpg"
NOBODY: dict[str, Any] = {"batchItemFailures": []}


def enrols_and_names(start: Start, account: Account, samples: Path) -> None:
    """`enroll` by an event of EventBridge, `fd_lambda` by the Function URL, `fr_lambda` by SQS."""
    account.put("enroll/Grace Hopper/1.jpg", (samples / HOPPER).read_bytes())
    with start("facewire_lambda.enroll.enroll", account.environment) as enroll:
        [outcome] = enroll.invoke(object_created(account.bucket, "enroll/Grace Hopper/1.jpg"))
        assert outcome["face_id"], outcome
        assert enroll.invoke(notification(account.bucket, "enroll/Grace+Hopper/1.jpg")) == [outcome]
    with start("fd_lambda.lambda_handler", account.environment) as detect:
        for request_id, file in (("r1", HOPPER), ("r2", COLLINS), ("r3", "cat.jpg")):
            assert detect.invoke(frame(samples, file, request_id))["statusCode"] == 200
        assert detect.invoke({"requestContext": {"http": {"method": "GET"}}})["statusCode"] == 405
        _logs_requests_and_metrics(detect, {"r1", "r2", "r3"}, "DetectMs")
    with start("fr_lambda.lambda_handler", account.environment) as recognize:
        assert recognize.invoke(account.receive(account.settings.request_queue)) == NOBODY
        _logs_requests_and_metrics(recognize, {"r1", "r2"}, "EmbedMs")
    named = {answer.request_id: answer.result for answer in account.answers()}
    assert named == {"r1": "Grace Hopper", "r2": "Unknown", "r3": "No-Face"}


def reports_exactly_the_poisoned_message(start: Start, account: Account, samples: Path) -> None:
    """A batch of ten with one that is no message, under the function's own name."""
    with start("facewire_lambda.function_url.detect", account.environment) as detect:
        assert detect.invoke(frame(samples, HOPPER, "r0"))["statusCode"] == 200
    [record] = account.receive(account.settings.request_queue)["Records"]
    bodies = [json.dumps({**json.loads(record["body"]), "request_id": f"r{number}"}) for number in range(9)]
    with start("facewire_lambda.request_queue.recognize", account.environment) as recognize:
        result = recognize.invoke(sqs(*bodies[:6], "{poison", *bodies[6:]))
    assert result == {"batchItemFailures": [{"itemIdentifier": "m6"}]}
    assert sorted(answer.request_id for answer in account.answers()) == [f"r{number}" for number in range(9)]


def keeps_pictures_of_the_bucket(start: Start, account: Account, samples: Path) -> None:
    """Both steps of the state machine, for a picture and for a broken one, whose error has a name to be caught by."""
    good = account.put("input/door/1.jpg", (samples / HOPPER).read_bytes())
    broken = account.put("input/broken.jpg", b"\xff\xd8\xff broken")
    with start("facewire_lambda.ingest.ingest_detect", account.environment) as ingest_detect:
        answer = ingest_detect.invoke(good)
        error = ingest_detect.invoke(broken)
    assert (answer["status"], len(answer["faces"])) == ("done", 1)
    assert error["errorType"] == "DecodeError"
    assert error["errorMessage"].startswith("decode: ")
    with start("facewire_lambda.ingest.ingest_store", account.environment) as ingest_store:
        stored = ingest_store.invoke({**good, "answer": answer})
        caught = {"Error": error["errorType"], "Cause": json.dumps(error)}
        recorded = ingest_store.invoke({**broken, "error": caught})
    assert (stored["status"], recorded["status"]) == ("done", "failed")
    for kept in (stored, recorded):
        result = account.result(kept["request_id"])
        assert result is not None
        assert result.status == kept["status"]
        assert json.loads(account.content(kept["processed"]))["status"] == kept["status"]


def answers_dead_letters(start: Start, account: Account) -> None:
    """A message that ended its function is recorded and answered."""
    with start("facewire_lambda.dead_letters.dead_letters", account.environment) as dead_letters:
        assert dead_letters.invoke(sqs('{"request_id": "r1", "faces": []}')) == NOBODY
    [answer] = account.answers()
    assert (answer.request_id, answer.status) == ("r1", "failed")
    result = account.result("r1")
    assert result is not None
    assert result.status == "failed"


def _logs_requests_and_metrics(function: Runtime, request_ids: set[str], metric: str) -> None:
    lines = function.lines()
    assert request_ids <= {line.get("request_id") for line in lines}
    assert all(line["aws_request_id"] for line in lines if "request_id" in line)
    metrics = [line for line in lines if "_aws" in line]
    assert any(metric in line for line in metrics)
    assert len([line for line in metrics if "InitMs" in line]) == 1
