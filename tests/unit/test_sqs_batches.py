import json
from collections.abc import Mapping
from typing import Any

import pytest

from facewire.adapters.aws.sqs import batches as sqs_batches
from facewire.adapters.aws.sqs.batches import (
    MAX_BATCH_BYTES,
    complete,
    in_tens,
    message_text,
    packed,
    raise_joined,
    reason_text,
)
from facewire.domain.errors import QueueError
from facewire.domain.messages import MAX_MESSAGE_BYTES
from facewire.domain.ports import PartialError


class FakeBatch:
    """Answers requests with the failures it is told of, one answer after the other; then everything succeeds."""

    def __init__(self, *answers: list[dict[str, Any]]) -> None:
        self.answers = list(answers)
        self.requests: list[list[str]] = []

    async def __call__(self, entries: list[Any]) -> Mapping[str, Any]:
        self.requests.append([entry["Id"] for entry in entries])
        return {"Failed": self.answers.pop(0)} if self.answers else {"Successful": []}


def failure(key: str, code: str, *, sender: bool) -> dict[str, Any]:
    return {"Id": key, "Code": code, "SenderFault": sender}


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqs_batches, "_FIRST_PAUSE_SECONDS", 0.001)


ENTRIES: list[dict[str, str]] = [{"MessageBody": "a"}, {"MessageBody": "b"}, {"MessageBody": "c"}]


def test_no_more_than_ten_go_into_a_batch() -> None:
    assert [len(batch) for batch in packed([f"{number}" for number in range(23)])] == [10, 10, 3]
    assert [len(batch) for batch in in_tens(range(23))] == [10, 10, 3]
    assert packed([]) == []


def test_a_batch_holds_a_mebibyte_of_utf8_at_most() -> None:
    texts = ["x" * 400_000, "é" * 200_000, "x" * (MAX_BATCH_BYTES - 800_000), "y", "x" * 1_000_000, "x" * 1_000_000]
    batches = packed(texts)
    assert [text for batch in batches for text in batch] == texts
    assert [len(batch) for batch in batches] == [3, 2, 1]
    assert all(sum(len(text.encode()) for text in batch) <= MAX_BATCH_BYTES for batch in batches)


def test_a_message_goes_as_it_is() -> None:
    body = '{"result": "Zoë 🙂", "note": "\\u0000\ttab"}'.encode()
    assert message_text(body).encode() == body


def test_characters_that_sqs_refuses_are_escaped_as_json_does_it() -> None:
    said = {"filename": "a\ufffe\uffffb"}
    text = message_text(json.dumps(said, ensure_ascii=False).encode())
    assert text.isascii()
    assert json.loads(text) == said


@pytest.mark.parametrize("body", [b"", b"\xff\xd8\xff\xe0", b'{"a": "\xed\xa0\x80"}'])
def test_what_is_no_text_is_refused(body: bytes) -> None:
    with pytest.raises(QueueError, match="send JSON") as caught:
        message_text(body)
    assert caught.value.code == "not_text"


def test_a_message_over_the_limit_is_refused() -> None:
    assert len(message_text(b"x" * MAX_MESSAGE_BYTES)) == MAX_MESSAGE_BYTES
    with pytest.raises(QueueError, match="1,000,001 bytes") as caught:
        message_text(b"x" * (MAX_MESSAGE_BYTES + 1))
    assert caught.value.code == "too_large"


def test_a_reason_is_short_text() -> None:
    assert reason_text("it\x00cannot\ufffebe read") == "it?cannot?be read"
    assert len(reason_text("x" * 10_000)) == 500
    assert reason_text("")


async def test_what_fails_for_a_passing_reason_is_tried_again_alone() -> None:
    batch = FakeBatch(
        [failure("0", "InternalError", sender=False), failure("2", "RequestThrottled", sender=True)],
        [failure("2", "ServiceUnavailable", sender=False)],
    )
    assert await complete(ENTRIES, batch) == 0
    assert batch.requests == [["0", "1", "2"], ["0", "2"], ["2"]]


async def test_what_goes_on_failing_is_named_in_the_end() -> None:
    batch = FakeBatch(*[[failure("1", "InternalError", sender=False)]] * 5)
    with pytest.raises(PartialError, match="1 of 3 entries: InternalError") as caught:
        await complete(ENTRIES, batch)
    assert (caught.value.code, caught.value.left, caught.value.refused) == ("unavailable", [1], [])
    assert len(batch.requests) == 5


async def test_what_is_refused_is_named_after_the_rest_is_done() -> None:
    batch = FakeBatch(
        [failure("0", "InvalidMessageContents", sender=True), failure("1", "InternalError", sender=False)]
    )
    with pytest.raises(PartialError, match="1 of 3 entries: InvalidMessageContents") as caught:
        await complete(ENTRIES, batch)
    assert (caught.value.code, caught.value.left, caught.value.refused) == ("refused", [], [0])
    assert batch.requests == [["0", "1", "2"], ["1"]]


async def test_what_was_done_before_sqs_went_away_is_not_named() -> None:
    class GoingAway(FakeBatch):
        async def __call__(self, entries: list[Any]) -> Mapping[str, Any]:
            if self.requests:
                raise QueueError("unreachable", "it went away")
            return await super().__call__(entries)

    batch = GoingAway([failure("0", "TooLong", sender=True), failure("2", "InternalError", sender=False)])
    with pytest.raises(PartialError) as caught:
        await complete(ENTRIES, batch)
    assert (caught.value.code, caught.value.left, caught.value.refused) == ("unreachable", [2], [0])


def test_positions_count_through_all_batches() -> None:
    first = PartialError("refused", "TooLong", left=[], refused=[1])
    third = PartialError("unavailable", "InternalError", left=[0, 2], refused=[1])
    with pytest.raises(PartialError, match="TooLong") as caught:
        raise_joined([range(3), range(2), range(3)], [first, None, third])
    assert (list(caught.value.left), list(caught.value.refused)) == ([5, 7], [1, 6])
    raise_joined([range(3)], [None])


@pytest.mark.parametrize(
    ("code", "sender"),
    [
        ("ReceiptHandleIsInvalid", True),
        ("AWS.SimpleQueueService.MessageNotInflight", True),
        ("InvalidParameterValueException", False),
    ],
)
async def test_a_lease_that_has_ended_is_passed_over_and_counted(code: str, sender: bool) -> None:
    batch = FakeBatch([failure("1", code, sender=sender)])
    assert await complete(ENTRIES, batch, leases=True) == 1
    assert len(batch.requests) == 1
