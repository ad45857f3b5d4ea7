"""Answers to messages that cannot be read but for their request id."""

from datetime import UTC, datetime

import pytest

from facewire.domain.errors import QueueError
from facewire.domain.failures import answer_unread

ERROR = QueueError("dead_letter", "given up")


def test_what_the_message_says_of_itself_is_in_the_answer() -> None:
    body = b"""{"request_id": "r1", "camera": "door", "content_sha256": "00", "received_at": "2026-11-22T10:00:00Z",
                "result": "Ada"}"""
    answer = answer_unread(body, ERROR, "cloud")
    assert answer is not None
    assert (answer.request_id, answer.camera, answer.content_sha256) == ("r1", "door", "00")
    assert answer.received_at == datetime(2026, 11, 22, 10, tzinfo=UTC)
    assert (answer.status, answer.result, answer.source) == ("failed", "Failed", "cloud")
    assert answer.error is not None
    assert (answer.error.stage, answer.error.code, answer.error.detail) == ("queue", "dead_letter", "given up")


@pytest.mark.parametrize("field", ['"content_sha256": null', '"received_at": "yesterday"', '"camera": 7'])
def test_a_field_that_cannot_be_read_leaves_the_id(field: str) -> None:
    answer = answer_unread(f'{{"request_id": "r1", {field}}}'.encode(), ERROR, "cloud")
    assert answer is not None
    assert (answer.request_id, answer.camera, answer.content_sha256) == ("r1", None, "")


@pytest.mark.parametrize(
    "body",
    [b"", b"junk", b"[1]", b"{}", b'{"request_id": 7}', b'{"request_id": "r1", "a":' + b"[" * 100_000, b"[" * 200_000],
    ids=["empty", "no JSON", "no object", "no id", "a number", "nested", "nested from the start"],
)
def test_without_an_id_there_is_no_answer(body: bytes) -> None:
    assert answer_unread(body, ERROR, "cloud") is None
