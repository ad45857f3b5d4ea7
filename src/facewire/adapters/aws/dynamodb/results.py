"""Results in a DynamoDB table: pending requests and answers.

A change is read, decided by the rules in `requests`, and written as long as what was read still stands; an answer and
its faces in one transaction. What is past its time counts as expired from that moment on, and DynamoDB's TTL alone
deletes it: there are no tombstones here.
"""

import asyncio
import secrets
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial

from facewire.adapters.aws.dynamodb.history import History
from facewire.adapters.aws.dynamodb.items import TTL, Key, Write, ttl
from facewire.adapters.aws.dynamodb.rows import Row, compressed, fitting, frame_key
from facewire.adapters.aws.dynamodb.table import SEGMENTS, Table, together
from facewire.domain.answers import without_forgotten, without_person
from facewire.domain.errors import StoreError
from facewire.domain.lifecycle import FORGOTTEN_FOR, Accepted, Answered, RequestState
from facewire.domain.messages import Frame, RecognizedFaces, now, sha256
from facewire.domain.ports import Result, ResultPage, ResultQuery, ResultStore

#: Partitions of the guards against names of the forgotten, and of the token that says whether they have changed.
FORGOTTEN, FORGOTTEN_TOKEN = "#forgotten", Key("#forgotten#", "token")
#: Rows of the version before say only within the answer whom that names.
_NAMES = "attribute_exists(#answer) AND (contains(#people, :person) OR attribute_not_exists(#people))"
_GUARD = f"SET #gallery_version = :version, #{TTL} = :expires_at"
_NO_NEWER_GUARD = "attribute_not_exists(#pk) OR #gallery_version <= :version"


class DynamoDbResultStore(ResultStore):
    """Answers by request id in `table`.

    `id_window_seconds` is how long a request id stands for one request: the next one with that id takes its place.
    `kept_days` after it was received a result has expired by `clock`, and a request without an answer as well.
    """

    def __init__(
        self,
        table: Table,
        *,
        id_window_seconds: float = 600.0,
        kept_days: float | None = None,
        clock: Callable[[], datetime] = now,
    ) -> None:
        self._table = table
        self._window = timedelta(seconds=id_window_seconds)
        self._kept = None if kept_days is None else timedelta(days=kept_days)
        self._clock = clock
        self._history = History(table, self._since)
        self._forgotten = _Forgotten(table)

    async def expect(self, frame: Frame) -> None:
        """Note that `frame` was accepted: pending, unless the same content is known since less than the window.

        A request that failed for a reason of the moment (`is_retryable`) is pending anew.
        """
        there: Row | None = None
        async for _ in self._attempts(frame.request_id):
            if self._state(there).on(Accepted(frame)).outcome == "repeat":
                return
            if await self._put(Row.pending(frame), there):
                return
            there = await self._read(frame.request_id)

    async def keep(self, answers: Sequence[RecognizedFaces]) -> list[RecognizedFaces]:
        """Keep each answer that is better than what is there; return those that were kept.

        Not kept are answers to other content than that of the pending or recent request, and to an expired request.
        """
        forgotten = await self._forgotten.known()
        fit = await asyncio.to_thread(lambda: [fitting(without_forgotten(answer, forgotten)) for answer in answers])
        turns: dict[str, list[int]] = defaultdict(list)
        for number, answer in enumerate(answers):
            turns[answer.request_id].append(number)
        items = await self._table.get_many(map(frame_key, turns))
        there = {key.pk: Row.of(item) for key, item in items.items()}

        async def in_turn(request_id: str) -> list[int]:
            standing, kept = there.get(request_id), []
            for number in turns[request_id]:
                standing, done = await self._keep(fit[number][1], standing)
                kept += [number] if done else []
            return kept

        kept = sorted(number for numbers in await together(in_turn, turns) for number in numbers)
        forgotten = await self._take_out_forgotten(answers)
        return [without_forgotten(fit[number][0], forgotten) for number in kept]

    async def get(self, request_id: str) -> Result | None:
        """Return what is known of the request, None if it was never seen or DynamoDB has deleted it since."""
        row = await self._read(request_id)
        return None if row is None else row.as_of(self._since()).result

    async def page(self, query: ResultQuery) -> ResultPage:
        """Return the newest results that fit, a page at a time. StoreError `bad_cursor` for a cursor of nobody's.

        A page may hold less than the limit, and still have a cursor, where few of many results fit. What was written
        in the last second may be missing; what has expired, changed or been forgotten is never shown.
        """
        return await self._history.page(query)

    async def overdue(self, before: datetime, limit: int) -> list[Result]:
        """Return requests still pending that were received before that moment, oldest first."""
        return await self._history.overdue(before, limit)

    async def expire(self, before: datetime, *, forget_before: datetime) -> int:  # noqa: ARG002 - the protocol's
        """Do nothing, as there is nothing to do: results expire by themselves after `kept_days`."""
        return 0

    async def forget_person(self, person: str, *, gallery_version: int) -> int:
        """Take the person's name out of every answer; return how many answers held it.

        Reads the whole table, for an index may lag behind. Answers still to come lose the name as well if they were
        made with a gallery older than `gallery_version`.
        """
        await self._forgotten.note(person, gallery_version)

        async def in_segment(segment: int) -> int:
            forgotten = 0
            async for keys in self._table.scan(_NAMES, {"person": person}, segment=segment):
                take_out = partial(self._take_out, change=lambda answer: without_person(answer, person))
                forgotten += sum(await together(take_out, [key.pk for key in keys]))
            return forgotten

        return sum(await together(in_segment, range(SEGMENTS)))

    async def _keep(self, row: Row, there: Row | None) -> tuple[Row | None, bool]:
        """Put the row where it is better than what is there; return what stands then, and whether that is the row."""
        async for _ in self._attempts(row.request_id):
            place = self._place(row, there)
            if place is None:
                return there, False
            if await self._put(place, there):
                return place, True
            there = await self._read(row.request_id)
            if there is not None and there.body == place.body:  # done, but the answer was lost and the client repeated
                return there, True
        return there, False

    def _place(self, row: Row, there: Row | None) -> Row | None:
        """Return the row as it takes the place of what is there, None if that stays."""
        answer = row.answer
        if there is None or answer is None:
            return row
        transition = self._state(there).on(Answered(answer))
        kept = transition.state.kept
        if transition.outcome != "kept" or kept is None:
            return None
        return row.in_place_of(there) if kept.received_at == there.received_at else row

    def _state(self, there: Row | None) -> RequestState:
        return RequestState(None if there is None else there.as_of(self._since()).result, self._window)

    async def _take_out_forgotten(self, answers: Sequence[RecognizedFaces]) -> Mapping[str, int]:
        """Take those names out of what stands for the answers who were forgotten meanwhile; return all guards."""
        if all(answer.gallery_version is None for answer in answers):
            return {}
        forgotten = await self._forgotten.current()
        named = {answer.request_id for answer in answers if without_forgotten(answer, forgotten) != answer}
        take_out = partial(self._take_out, change=lambda answer: without_forgotten(answer, forgotten))
        await together(take_out, named)
        return forgotten

    async def _take_out(self, request_id: str, change: Callable[[RecognizedFaces], RecognizedFaces]) -> bool:
        """Take a name out of the answer to a request; return whether there was one that held it."""
        async for _ in self._attempts(request_id):
            row = await self._read(request_id)
            answer = None if row is None else row.answer
            if row is None or answer is None or (changed := change(answer)) == answer:
                return False
            if await self._put(replace(row, body=compressed(changed)), row):
                return True
        return False

    async def _read(self, request_id: str) -> Row | None:
        item = await self._table.get(frame_key(request_id))
        return None if item is None else Row.of(item)

    async def _put(self, row: Row, there: Row | None) -> bool:
        expires_at = None if self._kept is None else row.received_at + self._kept
        return await self._table.write(row.writes(there, expires_at))

    def _attempts(self, request_id: str) -> AsyncIterator[None]:
        return self._table.attempts(StoreError("busy", f"request {request_id!r} is being changed by others: try again"))

    def _since(self) -> datetime | None:
        return None if self._kept is None else self._clock() - self._kept


class _Forgotten:
    """From which version of the gallery on people are no longer in it, by hash: read anew when a token has changed."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._token: str | None = None
        self._versions: Mapping[str, int] = {}

    async def known(self) -> Mapping[str, int]:
        """Return what was read last."""
        return self._versions if self._token is not None else await self.current()

    async def current(self) -> Mapping[str, int]:
        """Return what stands at this moment."""
        item = await self._table.get(FORGOTTEN_TOKEN)
        token = "" if item is None else str(item["token"])
        if token != self._token:
            pages = self._table.query("#pk = :pk", {"pk": FORGOTTEN})
            self._versions = {item["sk"]: item["gallery_version"] async for page in pages for item in page}
            self._token = token
        return self._versions

    async def note(self, person: str, gallery_version: int) -> None:
        """Guard against answers of older galleries; a guard against those of still newer ones stays."""
        values = {"version": gallery_version, "expires_at": ttl(now() + FORGOTTEN_FOR)}
        guard = Key(FORGOTTEN, sha256(person.encode()))
        await self._table.write([Write.update(guard, _GUARD, values=values, condition=_NO_NEWER_GUARD)])
        await self._table.write([Write.put({**FORGOTTEN_TOKEN._asdict(), "token": secrets.token_hex(8)})])
