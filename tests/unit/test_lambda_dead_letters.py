"""`dead_letters`: what was given up, as AWS hands it over."""

import json
from typing import Any

from structlog.testing import capture_logs

from facewire.domain.errors import RecognizeError
from facewire.domain.messages import DetectedFaces, RecognizedFaces, failed
from facewire.domain.ports import Result
from facewire_lambda.dead_letters import DeadLetters
from facewire_lambda.emf import Metrics
from gateway_fakes import FaultyResults, answer
from lambda_events import single_face, sqs
from pipeline_fakes import NotedQueue

NOBODY: dict[str, Any] = {"batchItemFailures": []}


class Fragile(FaultyResults):
    """Fails on the request r1 as no store should."""

    async def get(self, request_id: str) -> Result | None:
        if request_id == "r1":
            message = "a bug"
            raise RuntimeError(message)
        return await super().get(request_id)


class Setting:
    def __init__(self, results: FaultyResults | None = None) -> None:
        self.results, self.responses = results or FaultyResults(), NotedQueue()
        self.lines: list[str] = []
        self.metrics = Metrics("dead-letters", write=self.lines.append)
        responses = [self.responses]
        self.dead_letters = DeadLetters(self.results, responses=responses, metrics=self.metrics)

    @property
    def answers(self) -> list[RecognizedFaces]:
        return [RecognizedFaces.from_bytes(body) for body in self.responses.bodies]


def given_up() -> str:
    message = DetectedFaces.model_validate_json(single_face("Red", "r2"))
    return failed(message, RecognizeError("internal", "5 attempts failed"), source="cloud").to_bytes().decode()


async def test_a_message_that_ended_its_function_is_recorded_and_answered() -> None:
    setting = Setting()
    assert await setting.dead_letters(sqs(single_face("Red", "r1"))) == NOBODY
    [sent] = setting.answers
    assert (sent.request_id, sent.status) == ("r1", "failed")
    assert sent.error is not None
    assert sent.error.code == "dead_letter"
    assert setting.results.known["r1"].answer == sent
    setting.metrics.flush()
    assert json.loads(setting.lines[0])["DeadLetters"] == 1


async def test_an_answer_among_the_dead_letters_is_passed_on_as_it_is() -> None:
    setting = Setting()
    await setting.dead_letters(sqs(given_up()))
    [sent] = setting.answers
    assert sent.error is not None
    assert (sent.request_id, sent.error.code, sent.error.detail) == ("r2", "internal", "5 attempts failed")


async def test_a_letter_that_comes_twice_is_answered_once() -> None:
    setting = Setting()
    await setting.dead_letters(sqs(given_up()))
    assert await setting.dead_letters(sqs(given_up())) == NOBODY
    assert len(setting.answers) == 1


async def test_a_request_with_a_better_answer_keeps_it() -> None:
    setting = Setting()
    better = answer("r2")
    await setting.results.keep([better])
    assert await setting.dead_letters(sqs(given_up())) == NOBODY
    assert setting.answers == []
    assert setting.results.known["r2"].answer == better


async def test_what_names_no_request_is_deleted() -> None:
    setting = Setting()
    assert await setting.dead_letters(sqs("{not JSON")) == NOBODY
    assert setting.answers == []


async def test_an_answer_that_no_queue_takes_is_logged_and_does_not_come_for_ever() -> None:
    setting = Setting()
    swollen = json.dumps({"request_id": "r1", "faces": [], "content_sha256": "f" * 1_000_000})
    with capture_logs() as logs:
        assert await setting.dead_letters(sqs(swollen, given_up())) == NOBODY
    assert "a queue takes 1,000,000" in next(line["reason"] for line in logs if "reason" in line)
    assert [sent.request_id for sent in setting.answers] == ["r2"]


async def test_a_letter_that_brings_out_a_bug_leaves_its_neighbours_alone() -> None:
    setting = Setting(Fragile())
    result = await setting.dead_letters(sqs(single_face("Red", "r1"), given_up()))
    assert result == {"batchItemFailures": [{"itemIdentifier": "m0"}]}
    assert [sent.request_id for sent in setting.answers] == ["r2"]


async def test_it_is_sent_before_it_is_recorded_so_that_no_failure_in_between_loses_it() -> None:
    setting = Setting()
    setting.results.faults = 1
    assert await setting.dead_letters(sqs(given_up())) == {"batchItemFailures": [{"itemIdentifier": "m0"}]}
    assert await setting.dead_letters(sqs(given_up(), receives=2)) == NOBODY
    assert [sent.request_id for sent in setting.answers] == ["r2", "r2"]


async def test_one_that_cannot_be_answered_now_comes_again_and_its_neighbour_does_not() -> None:
    setting = Setting()
    setting.results.unreadable = {"r1"}
    result = await setting.dead_letters(sqs(single_face("Red", "r1"), given_up()))
    assert result == {"batchItemFailures": [{"itemIdentifier": "m0"}]}
    assert [sent.request_id for sent in setting.answers] == ["r2"]
