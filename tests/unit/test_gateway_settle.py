"""Whom answers are told to that the store does not take: those that came before, and those to other messages."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from facewire.domain.errors import StoreError
from facewire.domain.messages import Frame, RecognizedFaces, now
from facewire_gateway.delivery.drain import settle
from facewire_gateway.delivery.feed import Event, Feed
from facewire_gateway.delivery.notifier import LocalNotifier
from gateway_fakes import FaultyResults, answer, picture


@dataclass
class Told:
    """An notifier that notes what everybody is told, and what senders alone."""

    everybody: list[RecognizedFaces] = field(default_factory=list)
    senders: list[RecognizedFaces] = field(default_factory=list)

    async def tell(self, kept: Sequence[RecognizedFaces], others: Sequence[RecognizedFaces]) -> None:
        self.everybody += kept
        self.senders += others


@pytest.fixture
def results() -> FaultyResults:
    return FaultyResults()


async def test_an_answer_that_was_kept_and_comes_again_is_told_again(results: FaultyResults) -> None:
    """The gateway that kept it was killed before it told anybody."""
    kept = answer("a", camera="door")
    await results.keep([kept])
    told = Told()
    assert await settle([kept], results, told) == 0
    assert (told.everybody, told.senders) == ([kept], [])


async def test_an_answer_that_comes_again_is_told_as_it_is_kept_by_now(results: FaultyResults) -> None:
    found = answer("a", camera="door", result="Ada")
    await results.keep([found.model_copy(update={"result": "Unknown"})])
    told = Told()
    await settle([found], results, told)
    assert [answer.result for answer in told.everybody] == ["Unknown"]


async def test_a_refusal_that_was_kept_and_comes_again_is_told_once_more_only(results: FaultyResults) -> None:
    error = {"stage": "intake", "code": "not_an_image", "detail": "text"}
    refusal = answer("a", status="failed", result="Failed", camera="door", error=error)
    await results.keep([refusal])
    told = Told()
    await settle([refusal], results, told)
    assert (told.everybody, told.senders) == ([refusal], [])


async def test_a_second_answer_to_an_answered_request_is_not_told(results: FaultyResults) -> None:
    await results.keep([answer("a", camera="door")])
    told = Told()
    await settle([answer("a", camera="door"), answer("a", camera="door", source="edge")], results, told)
    assert (told.everybody, told.senders) == ([], [])


async def test_a_store_that_fails_after_it_has_kept_an_answer_loses_nothing_to_tell(results: FaultyResults) -> None:
    known, new = answer("known", camera="door"), answer("new", camera="door")
    await results.keep([known])
    results.unreadable.add("known")
    told = Told()
    with pytest.raises(StoreError):
        await settle([known, new], results, told)
    results.unreadable.clear()
    await settle([known, new], results, told)
    assert told.everybody == [known, new]


async def test_a_camera_whose_request_id_an_upload_has_taken_is_told_its_answer(results: FaultyResults) -> None:
    await results.expect(upload := Frame.of(picture(), request_id="7"))
    found = answer("7", camera="door", content_sha256="another", result="Ada")
    told = Told()
    assert await settle([found], results, told) == 0
    assert (told.everybody, told.senders) == ([], [found])
    without_camera = answer("7", content_sha256="another")
    await settle([without_camera], results, told)
    assert told.senders == [found], "nobody waits for it"
    assert results.known["7"].content_sha256 == upload.content_sha256


def repeated(kept: RecognizedFaces, **fields: Any) -> RecognizedFaces:
    """Return the answer to the same frame, received once more."""
    later = {"received_at": now(), "answered_at": now()}
    return kept.model_copy(update={**later, **fields})


async def test_a_camera_that_sends_its_frame_again_is_told_the_answer_that_is_kept(results: FaultyResults) -> None:
    kept = answer("a", camera="door", content_sha256="1", result="Ada")
    await results.keep([kept])
    told = Told()
    again = repeated(kept, result="Unknown")
    await settle([again], results, told)
    assert told.everybody == []
    (heard,) = told.senders
    assert (heard.result, heard.camera, heard.answered_at) == ("Ada", "door", kept.answered_at)
    assert heard.received_at == again.received_at


async def test_a_frame_sent_again_that_is_refused_gets_the_answer_that_is_kept(results: FaultyResults) -> None:
    kept = answer("a", camera="door", content_sha256="1", result="Ada")
    await results.keep([kept])
    told = Told()
    error = {"stage": "intake", "code": "overloaded", "detail": "full"}
    refusal = answer("a", status="failed", result="Failed", camera="door", content_sha256="1", error=error)
    await settle([refusal], results, told)
    assert [heard.result for heard in told.senders] == ["Ada"]


@pytest.mark.parametrize("first", ["door", None], ids=["of a camera", "an upload"])
async def test_a_second_camera_that_sends_the_same_frame_is_told_its_answer(
    results: FaultyResults, first: str | None
) -> None:
    kept = answer("a", camera=first, content_sha256="1", result="Ada")
    await results.keep([kept])
    told = Told()
    await settle([repeated(kept, camera="hall", received_at=kept.received_at)], results, told)
    assert [(heard.camera, heard.result) for heard in told.senders] == [("hall", "Ada")]


async def test_a_frame_that_a_queue_delivers_twice_is_answered_once(results: FaultyResults) -> None:
    kept = answer("a", camera="door", content_sha256="1")
    await results.keep([kept])
    told = Told()
    await settle([repeated(kept, received_at=kept.received_at)], results, told)
    assert (told.everybody, told.senders) == ([], [])


async def test_listeners_hear_of_an_answer_once_however_often_it_comes(results: FaultyResults) -> None:
    published: list[str] = []
    feed = Feed(results)

    async def publish(answers: Sequence[RecognizedFaces]) -> None:
        published.extend(found.request_id for found in answers)

    with feed.subscribe() as subscription:
        found = answer("a", camera="door")
        for _ in range(2):
            await settle([found], results, LocalNotifier(feed, publish))
        await settle([answer("b")], results, LocalNotifier(feed, publish))
        events = [await subscription.next(), await subscription.next()]
    assert [event.answer.request_id for event in events if isinstance(event, Event)] == ["a", "b"]
    assert published == ["a", "a", "b"]
