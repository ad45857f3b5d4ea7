"""One life of a request: which request an id stands for, which answer to it stays, what is a repeat, what is late.

A state machine without a clock and without I/O: stores, intakes, queues' readers and Lambda ask it. docs/delivery.md
shows it as a table.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal, Self

from facewire.domain.answers import is_retryable
from facewire.domain.errors import IntakeError
from facewire.domain.messages import FAILED, DetectedFaces, Failure, Frame, RecognizedFaces
from facewire.domain.names import raw_frame_id
from facewire.domain.ports import Result

EXPIRED = "expired"
#: Above that of every answer: none is better than a tombstone.
EXPIRED_RANK = 1000

#: How long answers still to come lose a deleted person's name, and enrolments bring nobody back: longer than any
#: message stays under way.
FORGOTTEN_FOR = timedelta(hours=24)

#: What an event makes of a request; `Transition` says what each means.
Outcome = Literal[
    "new", "retry", "repeat", "conflict",
    "kept", "kept_before", "other_message", "ignored",
    "awaited", "answered", "superseded", "too_late",
    "lost", "expired", "forgotten",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Received:
    """A frame comes to an intake, which may still refuse it.

    `at` is when, where that is not when the frame was received: a copy of it, sent later. Two purposes, such as the
    enrolment of two people, are two requests, even if the content is the same.
    """

    frame: Frame
    at: datetime | None = None
    same_purpose: bool = True


@dataclass(frozen=True, slots=True)
class Accepted:
    """An intake has committed the frame: it is answered whatever its id stood for."""

    frame: Frame


@dataclass(frozen=True, slots=True)
class Detected:
    """The faces of a frame come to a recognizer."""

    message: DetectedFaces


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer comes, of any stage."""

    answer: RecognizedFaces


@dataclass(frozen=True, slots=True)
class GivenUp:
    """A message was dead-lettered; `answer` says so, or is the message itself."""

    answer: RecognizedFaces


@dataclass(frozen=True, slots=True)
class Due:
    """A committed frame is to be handed over at a moment, if that still has a use."""

    frame: Frame
    at: datetime
    deadline: timedelta


@dataclass(frozen=True, slots=True)
class Overdue:
    """A moment has come at which requests received more than `deadline` before have waited long enough."""

    at: datetime
    deadline: timedelta


@dataclass(frozen=True, slots=True)
class Expired:
    """Answers to what was received before a moment leave, and with `forget_before` tombstones from before that."""

    before: datetime
    forget_before: datetime | None = None


Event = Received | Accepted | Detected | Answered | GivenUp | Due | Overdue | Expired


@dataclass(frozen=True, slots=True)
class Known:
    """What the rules compare of what is kept under a request id, a tombstone included.

    `gallery_version` is that of the answer, None while there is none or where it needed no gallery.
    """

    status: str
    rank: int
    content_sha256: str
    received_at: datetime
    gallery_version: int | None = None

    @classmethod
    def of(cls, kept: Result) -> Self:
        """Return what the rules compare of a result."""
        answer = kept.answer
        rank = EXPIRED_RANK if kept.status == EXPIRED else 0 if answer is None else answer.rank
        gallery_version = None if answer is None else answer.gallery_version
        return cls(kept.status, rank, kept.content_sha256, kept.received_at, gallery_version)

    def same_request(self, frame: Frame, window: timedelta, at: datetime | None = None) -> bool:
        """Tell whether `frame` is the request known: the same content, received, or here `at`, within the window."""
        return self.is_of(frame.content_sha256) and self.is_recent(at or frame.received_at, window)

    def is_recent(self, at: datetime, window: timedelta) -> bool:
        """Tell whether the id still stands for the request known at that moment."""
        return at - self.received_at <= window

    def window_expired(self, answer: RecognizedFaces, window: timedelta) -> bool:
        """Tell whether the answer is to a later request under a used id, one that nobody has announced.

        A failure without a content hash comes from a message that could not be read, and proves no new request.
        """
        if self.status == "pending" or (answer.status == "failed" and not answer.content_sha256):
            return False
        return answer.received_at - self.received_at > window or self._is_asked_anew(answer)

    def is_better(self, answer: RecognizedFaces) -> bool:
        """Tell whether the answer is to the request known, and better than what is known of it.

        What failed for a reason of the moment before the frame was sent again is no answer to the later attempt.
        """
        if answer.content_sha256 and answer.received_at < self.received_at and is_retryable(answer):
            return False
        return self.rank < answer.rank and self.is_of(answer.content_sha256)

    def is_of(self, content_sha256: str) -> bool:
        """Messages of earlier deployments have no content hash; they count as the request of their id."""
        return self.content_sha256 == content_sha256 or not self.content_sha256 or not content_sha256

    def _is_asked_anew(self, answer: RecognizedFaces) -> bool:
        """Tell whether a still without an id of its own came once more, and met a later gallery."""
        if self.gallery_version is None or answer.gallery_version is None or answer.camera is None:
            return False
        later = answer.received_at > self.received_at and answer.gallery_version > self.gallery_version
        return later and answer.request_id == raw_frame_id(answer.camera, answer.content_sha256)


@dataclass(frozen=True, slots=True)
class RequestState:
    """What is kept under a request id, None for nothing.

    `window` is how long from its receipt on the id stands for one request. Without one the id is never free: for
    questions about what a store has decided already.
    """

    kept: Result | None
    window: timedelta = timedelta.max

    def on(self, event: Event) -> "Transition":  # noqa: PLR0911 - one for each event
        """Return what the event makes of the request."""
        match event:
            case Received():
                return self._on_received(event)
            case Accepted(frame):
                return self._on_accepted(frame, frame.received_at)
            case Detected(message):
                return self._stay("answered" if self._has_recognized(message) else "awaited")
            case Answered(answer):
                return self._on_answered(answer)
            case GivenUp(answer):
                return self._on_given_up(answer)
            case Due():
                return self._stay(self._use_of(event))
            case Overdue():
                return self._on_overdue(event)
            case Expired():
                return self._on_expired(event)

    @property
    def is_answered(self) -> bool:
        """Whether nothing is to come any more, as far as is known: an answer stands, or stood until it expired."""
        return self.kept is not None and self.kept.status != "pending"

    def has_noted(self, frame: Frame) -> bool:
        """Return whether what is kept may be of this frame: not where it is of an earlier request."""
        return self.kept is not None and self.kept.received_at >= frame.received_at

    def _on_received(self, received: Received) -> "Transition":
        frame, at = received.frame, received.at or received.frame.received_at
        known = None if self.kept is None else Known.of(self.kept)
        same = received.same_purpose and (known is None or known.is_of(frame.content_sha256))
        if known is not None and known.is_recent(at, self.window) and not same:
            return self._stay("conflict")
        return self._on_accepted(frame, at)

    def _on_accepted(self, frame: Frame, at: datetime) -> "Transition":
        pending = Result(frame.request_id, "pending", frame.camera, frame.content_sha256, frame.received_at, None)
        if self.kept is None:
            return self._become("new", pending)
        if is_retryable(self.kept.answer):
            return self._become("retry", pending)
        if Known.of(self.kept).same_request(frame, self.window, at):
            return self._stay("repeat", self.kept.answer)
        return self._become("new", pending)

    def _on_answered(self, answer: RecognizedFaces) -> "Transition":
        kept = self.kept
        if kept is not None and _is_same_answer(answer, kept.answer):
            return self._stay("kept_before", kept.answer)
        if is_conflict(answer) and not self._is_refused(answer):
            return self._not_kept(answer)
        alone = Result(
            answer.request_id, answer.status, answer.camera, answer.content_sha256, answer.received_at, answer
        )
        if kept is None or Known.of(kept).window_expired(answer, self.window):
            return self._become("kept", alone, answer)
        if not Known.of(kept).is_better(answer):
            return self._not_kept(answer)
        camera, content = kept.camera or answer.camera, kept.content_sha256 or answer.content_sha256
        return self._become(
            "kept", replace(alone, camera=camera, content_sha256=content, received_at=kept.received_at), answer
        )

    def _is_refused(self, conflict: RecognizedFaces) -> bool:
        """Tell whether the pending request itself is refused: an upload whose id only the detector has seen before."""
        kept = self.kept
        return kept is not None and kept.status == "pending" and kept.content_sha256 == conflict.content_sha256

    def _not_kept(self, answer: RecognizedFaces) -> "Transition":
        repeated = self._repeated(answer)
        if repeated is not None:
            return self._stay("repeat", repeated)
        known_content = "" if self.kept is None else self.kept.content_sha256
        hashes = {answer.content_sha256, known_content}
        if _is_refusal(answer) or (answer.camera is not None and "" not in hashes and len(hashes) > 1):
            return self._stay("other_message", answer)
        return self._stay("ignored")

    def _repeated(self, answer: RecognizedFaces) -> RecognizedFaces | None:
        """Return what is kept, for a camera that sent the known request's frame once more, or is a second one to do so.

        None where `answer` is to the very message that is answered already: one that a queue has delivered twice.
        """
        kept = None if self.kept is None else self.kept.answer
        if kept is None or kept.enrolled is not None or is_conflict(answer) or answer.camera is None:
            return None
        if not answer.content_sha256 or answer.content_sha256 != kept.content_sha256:
            return None
        if (answer.camera, answer.received_at) == (kept.camera, kept.received_at):
            return None
        return kept.model_copy(update={"camera": answer.camera, "received_at": answer.received_at})

    def _has_recognized(self, message: DetectedFaces) -> bool:
        """Tell whether a recognizer has answered this very frame; one received later is a new request."""
        answer = None if self.kept is None else self.kept.answer
        if answer is None or answer.status != "done" or answer.source != "cloud":
            return False
        return answer.content_sha256 == message.content_sha256 and message.received_at <= answer.received_at

    def _on_given_up(self, answer: RecognizedFaces) -> "Transition":
        """Answer the request, and not a later one of that id, unless it has an answer: the dead letter came twice."""
        content = None if self.kept is None else self.kept.content_sha256
        if self.is_answered and answer.content_sha256 in {"", content}:
            return self._stay("answered")
        return self._stay("lost", answer)

    def _use_of(self, due: Due) -> Outcome:
        if self.is_answered:
            return "answered"
        if self.kept is not None and self.kept.content_sha256 not in {due.frame.content_sha256, ""}:
            return "superseded"
        age = max(timedelta(), due.at - due.frame.received_at)
        return "too_late" if age >= due.deadline else "awaited"

    def _on_overdue(self, overdue: Overdue) -> "Transition":
        """Answer the request as lost. A late answer still takes the place of that."""
        kept = self.kept
        if kept is None or self.is_answered or overdue.at - kept.received_at <= overdue.deadline:
            return self._stay("ignored")
        answer = _lost(kept, overdue.deadline)
        return self._become("lost", replace(kept, status="failed", answer=answer), answer)

    def _on_expired(self, expired: Expired) -> "Transition":
        kept = self.kept
        if kept is None:
            return self._stay("ignored")
        if expired.forget_before is not None and kept.received_at < expired.forget_before:
            return self._become("forgotten", None)
        if kept.status == EXPIRED or kept.received_at >= expired.before:
            return self._stay("ignored")
        return self._become("expired", replace(kept, status="expired", camera=None, answer=None))

    def _stay(self, outcome: Outcome, told: RecognizedFaces | None = None) -> "Transition":
        return Transition(outcome, self, told)

    def _become(self, outcome: Outcome, kept: Result | None, told: RecognizedFaces | None = None) -> "Transition":
        return Transition(outcome, replace(self, kept=kept), told)


@dataclass(frozen=True, slots=True)
class Transition:
    """What an event makes of a request: the state after it, and the answer to tell of, None for nothing.

    A frame is `new`, is to be answered once more (`retry`), changes nothing (`repeat`), or is refused (`conflict`).
    An answer is `kept`, was `kept_before` (it comes again), or is not kept: the sender hears what is kept (`repeat`),
    or this answer as it is to an `other_message` than the known request; or nothing (`ignored`).
    Work is `awaited` or has no use: the request is `answered`, its id is another one's (`superseded`), or the deadline
    has passed (`too_late`).
    In time a request is `lost`, its answer `expired`, its tombstone `forgotten`.
    """

    outcome: Outcome
    state: RequestState
    told: RecognizedFaces | None = None


def is_conflict(answer: RecognizedFaces) -> bool:
    """Return whether the answer refuses a message because its id stands for another request."""
    return answer.error is not None and answer.error.code == "id_conflict"


def _is_refusal(answer: RecognizedFaces) -> bool:
    return answer.error is not None and answer.error.stage == IntakeError.stage


def _is_same_answer(answer: RecognizedFaces, kept: RecognizedFaces | None) -> bool:
    """Tell whether it is the answer that is kept, but for names that were deleted meanwhile."""
    if kept is None:
        return False
    return (kept.answered_at, kept.received_at) == (answer.answered_at, answer.received_at)


def _lost(pending: Result, deadline: timedelta) -> RecognizedFaces:
    detail = f"no answer came within {deadline.total_seconds():g} s: send the frame again"
    return RecognizedFaces(
        request_id=pending.request_id,
        status="failed",
        result=FAILED,
        camera=pending.camera,
        received_at=pending.received_at,
        content_sha256=pending.content_sha256,
        error=Failure(stage="gateway", code="lost", detail=detail),
    )
