"""The life of a request: the table in docs/delivery.md cell by cell, and random lives."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from facewire.domain.lifecycle import (
    Accepted,
    Answered,
    Detected,
    Due,
    Event,
    Expired,
    GivenUp,
    Overdue,
    Received,
    RequestState,
    Transition,
)
from facewire.domain.messages import FAILED, UNKNOWN, DetectedFaces, Enrolled, Failure, Frame, RecognizedFaces
from facewire.domain.names import raw_frame_id

WINDOW = timedelta(minutes=10)
DEADLINE = timedelta(minutes=10)
SECOND = timedelta(seconds=1)
DAY = timedelta(days=1)
NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
NOTHING = RequestState(None, WINDOW)
DELIVERY = Path(__file__).parents[2] / "docs" / "delivery.md"

ANSWERS: dict[str, dict[str, Any]] = {
    "failed, passing": {"status": "failed", "error": Failure(stage="gateway", code="lost", detail="late")},
    "failed": {"status": "failed", "error": Failure(stage="detect", code="not_an_image", detail="text")},
    "done, edge": {"source": "edge"},
    "done, cloud": {"source": "cloud"},
}


def frame(content: bytes = b"picture", after: timedelta = timedelta(), **fields: Any) -> Frame:
    return Frame.of(content, **{"request_id": "r1", "camera": "door", "received_at": NOON + after, **fields})


def answer(to: Frame, kind: str = "done, cloud", **fields: Any) -> RecognizedFaces:
    told = to.model_dump(include={"request_id", "camera", "received_at", "content_sha256"})
    result = FAILED if kind.startswith("failed") else UNKNOWN
    return RecognizedFaces.model_validate({**told, "result": result, **ANSWERS[kind], **fields})


def detected(to: Frame) -> DetectedFaces:
    told = to.model_dump(include={"request_id", "camera", "received_at", "content_sha256"})
    return DetectedFaces.model_validate(told)


def after(*events: Event, state: RequestState = NOTHING) -> RequestState:
    for event in events:
        state = state.on(event).state
    return state


def conflict(to: Frame) -> RecognizedFaces:
    return answer(to, "failed", error=Failure(stage="intake", code="id_conflict", detail="taken"))


THERE = {
    "nothing": NOTHING,
    "pending": after(Accepted(frame())),
    **{kind: after(Answered(answer(frame(), kind))) for kind in ANSWERS},
    "expired": after(Accepted(frame()), Expired(NOON + SECOND)),
}
COMES: dict[str, Event] = {
    "the frame again, within the window": Received(frame(after=WINDOW)),
    "other content, within the window": Received(frame(b"other", after=WINDOW)),
    "a frame after the window": Received(frame(after=WINDOW + SECOND)),
    "a frame that intake has committed, other content": Accepted(frame(b"other")),
    **{f"an answer: {kind}": Answered(answer(frame(), kind)) for kind in ANSWERS},
    "an answer to other content": Answered(answer(frame(b"other"))),
    "an answer to a frame after the window": Answered(answer(frame(after=WINDOW + SECOND), "failed")),
    "`id_conflict` for other content": Answered(conflict(frame(b"other"))),
    "the faces of the frame, at a recognizer": Detected(detected(frame())),
    "the frame as a dead letter": GivenUp(answer(frame(), "failed, passing")),
    "the frame's turn to be handed over": Due(frame(), NOON, DEADLINE),
    "that turn, of other content": Due(frame(b"other"), NOON, DEADLINE),
    "that turn, at the answer deadline": Due(frame(), NOON + DEADLINE, DEADLINE),
    "the end of the answer deadline": Overdue(NOON + DEADLINE + SECOND, DEADLINE),
    "the end of what answers are kept for": Expired(NOON + SECOND),
    "the end of what tombstones are kept for": Expired(NOON + SECOND, forget_before=NOON + SECOND),
}


def table() -> str:
    """Return what docs/delivery.md shows."""
    rows = [["comes \\ there is", *THERE], ["---"] * (1 + len(THERE))]
    rows += [[comes, *(state.on(event).outcome for state in THERE.values())] for comes, event in COMES.items()]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def test_the_table_of_the_docs_is_what_the_machine_does() -> None:
    assert table() in DELIVERY.read_text(), f"put this into {DELIVERY.name}:\n{table()}"


def test_a_better_answer_is_kept_as_one_to_the_request_known() -> None:
    transition = after(Accepted(frame(camera=None))).on(Answered(late := answer(frame(after=SECOND))))
    assert transition.told == late
    kept = transition.state.kept
    assert kept is not None
    assert (kept.status, kept.answer, kept.received_at, kept.camera) == ("done", late, NOON, "door")


def test_the_answer_that_is_kept_is_told_again_as_it_is_kept_by_now() -> None:
    kept = answer(frame(), result="Unknown")
    transition = after(Answered(kept)).on(Answered(kept.model_copy(update={"result": "Ada"})))
    assert (transition.outcome, transition.told) == ("kept_before", kept)


def test_a_repeated_frame_is_told_the_kept_answer() -> None:
    kept = answer(frame())
    assert after(Answered(kept)).on(Received(frame(after=SECOND))).told == kept


@pytest.mark.parametrize(("camera", "later"), [("door", SECOND), ("hall", timedelta())])
def test_a_camera_that_sends_the_frame_once_more_is_told_the_kept_answer(camera: str, later: timedelta) -> None:
    again = answer(frame(after=later, camera=camera), result="Ada")
    transition = after(Answered(answer(frame()))).on(Answered(again))
    assert transition.outcome == "repeat"
    assert transition.told is not None
    assert (transition.told.camera, transition.told.received_at) == (camera, NOON + later)
    assert transition.told.result == UNKNOWN


def test_another_purpose_is_another_request() -> None:
    enrolment = Received(frame(), same_purpose=False)
    assert [state.on(enrolment).outcome for state in (NOTHING, THERE["pending"])] == ["new", "conflict"]


def test_a_copy_counts_from_when_it_comes() -> None:
    copies = [Received(frame(), at=NOON + WINDOW), Received(frame(), at=NOON + WINDOW + SECOND)]
    assert [THERE["pending"].on(copy).outcome for copy in copies] == ["repeat", "new"]


def test_an_enrolment_is_told_to_its_own_sender_only() -> None:
    enrolled = answer(frame(), enrolled=Enrolled(person="Ada", face_id="f1"))
    assert after(Answered(enrolled)).on(Answered(answer(frame(after=SECOND)))).outcome == "ignored"


def test_a_conflict_that_refuses_the_pending_request_itself_is_its_answer() -> None:
    refusal = conflict(frame())
    assert after(Accepted(frame())).on(Answered(refusal)).outcome == "kept"
    assert NOTHING.on(Answered(refusal)).outcome == "other_message"


def test_what_was_lost_is_told_and_a_late_answer_takes_its_place() -> None:
    lost = after(Accepted(frame())).on(Overdue(NOON + DEADLINE + SECOND, DEADLINE))
    assert lost.told is not None
    assert lost.told == (lost.state.kept and lost.state.kept.answer)
    assert lost.told.error is not None
    assert lost.told.error.code == "lost"
    assert lost.state.on(Answered(answer(frame()))).outcome == "kept"


def test_a_request_within_its_deadline_is_not_lost() -> None:
    assert THERE["pending"].on(Overdue(NOON + DEADLINE, DEADLINE)).outcome == "ignored"


def test_a_frame_of_the_future_is_not_late() -> None:
    due = Due(frame(), NOON - DAY, DEADLINE)
    assert THERE["pending"].on(due).outcome == "awaited"


def test_a_passing_failure_before_the_frame_was_sent_again_is_no_answer_to_it() -> None:
    sent_again = after(Accepted(frame(after=9 * SECOND)))
    assert sent_again.on(Answered(answer(frame(), "failed, passing"))).outcome == "ignored"
    assert sent_again.on(Answered(answer(frame(after=9 * SECOND), "failed, passing"))).outcome == "kept"


def test_a_raw_still_sent_again_after_the_gallery_has_changed_is_a_new_question() -> None:
    raw: dict[str, Any] = {"request_id": raw_frame_id("door", frame().content_sha256)}
    first, again = frame(**raw), frame(after=SECOND, **raw)
    state = after(Answered(answer(first, gallery_version=1)))
    assert state.on(Answered(answer(again, gallery_version=1))).outcome == "repeat"
    assert state.on(Answered(answer(first, gallery_version=2))).outcome == "ignored"
    assert state.on(Answered(answer(again, gallery_version=2))).outcome == "kept"


def test_without_a_hash_an_answer_is_to_the_request_of_its_id_but_proves_no_new_one() -> None:
    unread = answer(frame(after=DAY), "failed", content_sha256="")
    assert THERE["pending"].on(Answered(unread)).outcome == "kept"
    assert THERE["done, cloud"].on(Answered(unread)).outcome == "ignored"


def test_a_dead_letter_of_another_content_is_no_copy() -> None:
    letter = answer(frame(b"other"), "failed")
    assert THERE["done, cloud"].on(GivenUp(letter)).outcome == "lost"


CONTENTS = st.sampled_from([b"picture", b"other"])


class Lives(RuleBasedStateMachine):
    """One id through frames, answers in any order, deadlines and expiry."""

    def __init__(self) -> None:
        super().__init__()
        self.state, self.at = NOTHING, NOON
        self.frames: list[Frame] = []
        self.answered = 0

    @rule(minutes=st.sampled_from([1, 5, 10, 11, 60]))
    def time_passes(self, minutes: int) -> None:
        self.at += timedelta(minutes=minutes)

    @rule(content=CONTENTS, event=st.sampled_from([Received, Accepted]))
    def a_frame_comes(self, content: bytes, event: type[Received] | type[Accepted]) -> None:
        new = frame(content, received_at=self.at)
        before = self.state
        transition = self._turn(event(new))
        self.frames.append(new)
        kept, known = transition.state.kept, before.kept
        if known is None or self.at - known.received_at > WINDOW:
            assert kept is not None
            assert (kept.status, kept.received_at, kept.content_sha256) == ("pending", self.at, new.content_sha256)
        elif transition.outcome in {"repeat", "conflict"}:
            assert transition.state == before
            assert (transition.outcome == "repeat") == (known.content_sha256 == new.content_sha256)

    @rule(kind=st.sampled_from([*ANSWERS]), number=st.integers(0, 9))
    def an_answer_comes(self, kind: str, number: int) -> None:
        if not self.frames:
            return
        to = self.frames[number % len(self.frames)]
        self.answered += 1
        event = Answered(answer(to, kind, answered_at=NOON + timedelta(microseconds=self.answered)))
        before, transition = self.state, self._turn(Answered(event.answer))
        known = before.kept
        if known is None or transition.outcome != "kept":
            return
        later = known.status != "pending" and to.received_at - known.received_at > WINDOW
        assert later or to.content_sha256 == known.content_sha256, "an answer to another request"
        if known.answer is not None and not later:
            assert event.answer.rank > known.answer.rank, "an answer went back"
        if kind == "failed, passing":
            assert to.received_at >= known.received_at, "a failure from before the frame was sent again"

    @rule()
    def the_deadline_ends(self) -> None:
        transition = self._turn(Overdue(self.at, DEADLINE))
        assert transition.outcome in {"lost", "ignored"}

    @rule(kept_for=st.sampled_from([1, 30, 90]))
    def answers_expire(self, kept_for: int) -> None:
        before = self.at - timedelta(minutes=kept_for)
        kept = self._turn(Expired(before, forget_before=before - timedelta(minutes=30))).state.kept
        assert kept is None or kept.status == "expired" or kept.received_at >= before

    @rule(number=st.integers(0, 9))
    def questions_change_nothing(self, number: int) -> None:
        if not self.frames:
            return
        asked = self.frames[number % len(self.frames)]
        for event in (Detected(detected(asked)), Due(asked, self.at, DEADLINE), GivenUp(answer(asked, "failed"))):
            assert self.state.on(event).state == self.state

    def _turn(self, event: Event) -> Transition:
        """Take the event; coming once more it changes nothing."""
        transition = self.state.on(event)
        again = transition.state.on(event)
        assert again.state == transition.state
        assert again.outcome not in {"new", "retry", "kept", "lost", "expired", "forgotten"}
        self.state = transition.state
        return transition


TestLives = Lives.TestCase
