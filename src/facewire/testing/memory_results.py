"""Results in memory: pending requests, answers, tombstones."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from facewire.domain.answers import (
    mentioned_people,
    recognized_people,
    without_forgotten,
    without_person,
)
from facewire.domain.cursor import read_cursor, write_cursor
from facewire.domain.lifecycle import FORGOTTEN_FOR, Accepted, Answered, RequestState
from facewire.domain.messages import Frame, RecognizedFaces, now, sha256
from facewire.domain.ports import Result, ResultPage, ResultQuery, ResultStore


class MemoryResultStore(ResultStore):
    """Answers by request id, in `known`; what has expired leaves a tombstone.

    `id_window_seconds` is how long a request id stands for one request: the next one with that id takes its place.
    `clock` says when a person was forgotten.
    """

    def __init__(self, *, id_window_seconds: float = 600.0, clock: Callable[[], datetime] = now) -> None:
        self.known: dict[str, Result] = {}
        self._window = timedelta(seconds=id_window_seconds)
        self._clock = clock
        #: The gallery's version that has no longer known a person, and when that was, by the SHA-256 of the name.
        self._forgotten: dict[str, tuple[int, datetime]] = {}

    async def expect(self, frame: Frame) -> None:
        """Note that `frame` was accepted: pending, unless the same content is known since less than the window.

        A request that failed for a reason of the moment (`is_retryable`) is pending anew.
        """
        self._follow(frame.request_id, Accepted(frame))

    async def keep(self, answers: Sequence[RecognizedFaces]) -> list[RecognizedFaces]:
        """Keep each answer that is better than what is there; return those that were kept.

        Not kept are answers to other content than that of the pending or recent request, and to an expired request.
        """
        forgotten = {person: version for person, (version, _) in self._forgotten.items()}
        without = [without_forgotten(answer, forgotten) for answer in answers]
        return [answer for answer in without if self._keep(answer)]

    def _keep(self, answer: RecognizedFaces) -> bool:
        return self._follow(answer.request_id, Answered(answer)) == "kept"

    def _follow(self, request_id: str, event: Accepted | Answered) -> str:
        """Keep what the event makes of the request; return what that is."""
        transition = RequestState(self.known.get(request_id), self._window).on(event)
        if transition.state.kept is not None:
            self.known[request_id] = transition.state.kept
        return transition.outcome

    async def get(self, request_id: str) -> Result | None:
        """Return what is known of the request, None if it was never seen."""
        return self.known.get(request_id)

    async def page(self, query: ResultQuery) -> ResultPage:
        """Return the newest results that fit, a page at a time. StoreError `bad_cursor` for a cursor of nobody's."""
        after = None if query.cursor is None else read_cursor(query.cursor)
        fitting = [result for result in self.known.values() if _fits(result, query)]
        found = sorted(fitting, key=_turn, reverse=True)
        rest = [result for result in found if after is None or _turn(result) < after]
        results = rest[: query.limit]
        more = len(rest) > query.limit
        return ResultPage(results, write_cursor(*_turn(results[-1])) if more else None)

    async def overdue(self, before: datetime, limit: int) -> list[Result]:
        """Return requests still pending that were received before that moment, oldest first."""
        late = [found for found in self.known.values() if found.status == "pending" and found.received_at < before]
        return sorted(late, key=_turn)[:limit]

    async def expire(self, before: datetime, *, forget_before: datetime) -> int:
        """Turn what was received before the first moment into tombstones, drop tombstones before the second.

        Return how many results have become tombstones.
        """
        due = [found for found in self.known.values() if found.status != "expired" and found.received_at < before]
        for found in due:
            self.known[found.request_id] = replace(found, status="expired", camera=None, answer=None)
        for found in list(self.known.values()):
            if found.status == "expired" and found.received_at < forget_before:
                del self.known[found.request_id]
        return len(due)

    async def forget_person(self, person: str, *, gallery_version: int) -> int:
        """Take the person's name out of every answer; return how many answers held it.

        Answers still to come lose it as well if they were made with a gallery older than `gallery_version`.
        """
        self._note_forgotten(sha256(person.encode()), gallery_version)
        forgotten = 0
        for found in list(self.known.values()):
            if found.answer is not None and person in mentioned_people(found.answer):
                self.known[found.request_id] = replace(found, answer=without_person(found.answer, person))
                forgotten += 1
        return forgotten

    def _note_forgotten(self, person: str, gallery_version: int) -> None:
        moment = self._clock()
        lately = {name: noted for name, noted in self._forgotten.items() if noted[1] >= moment - FORGOTTEN_FOR}
        version, _ = lately.get(person, (0, moment))
        self._forgotten = lately | {person: (max(version, gallery_version), moment)}


def _turn(result: Result) -> tuple[datetime, str]:
    return result.received_at, result.request_id


def _fits(result: Result, query: ResultQuery) -> bool:
    people = set() if result.answer is None else recognized_people(result.answer)
    return (
        result.status != "expired"
        and query.person in (None, *people)
        and query.camera in (None, result.camera)
        and query.status in (None, result.status)
        and (query.since is None or query.since <= result.received_at)
        and (query.until is None or result.received_at <= query.until)
    )
