"""Results in a DynamoDB table: pending requests, answers, tombstones.

A row is written under the condition that it is better than what is there; the entries by person are written before it
and count only for the row whose token they hold, so that no order of writers and crashes loses a name to be forgotten.
`expire` takes answers out and leaves tombstones; the TTL of each item, which DynamoDB may take days to look at, is for
a table that nobody looks after any more.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta

from facewire.adapters.aws.dynamodb.expiry import expire_results
from facewire.adapters.aws.dynamodb.history import History
from facewire.adapters.aws.dynamodb.items import Item, Key
from facewire.adapters.aws.dynamodb.rows import Entry, Row, compressed, fitting, frame_key, person_partition
from facewire.adapters.aws.dynamodb.schema import DAYS, FORGOTTEN, TTL
from facewire.adapters.aws.dynamodb.table import Table, Written, together
from facewire.domain.answers import is_retryable, without_forgotten, without_person
from facewire.domain.errors import StoreError
from facewire.domain.lifecycle import FORGOTTEN_FOR
from facewire.domain.messages import Frame, RecognizedFaces, now, sha256
from facewire.domain.ports import Result, ResultPage, ResultQuery, ResultStore

#: How often a row is read anew because others have just changed it.
ATTEMPTS = 10
#: A day is noted again after this long: the table may have been made anew meanwhile.
_NOTE_DAY_SECONDS = 60.0
_MAX_DAYS = 1000
#: An entry younger than this may be that of a row which is about to be written.
_UNDER_WAY_SECONDS = 3600.0
#: What no camera is named, for comparisons: what is in an index cannot be empty.
_NO_CAMERA = "/"
_ABSENT = "attribute_not_exists(#pk)"
_BETTER = f"""
    {_ABSENT} OR (#rank < :rank AND #moment = :moment AND #content_sha256 = :content_sha256
    AND (attribute_not_exists(#camera) OR #camera = :camera))"""


class DynamoDbResultStore(ResultStore):
    """Answers by request id in `table`; what has expired leaves a tombstone.

    `id_window_seconds` is how long a request id stands for one request: the next one with that id takes its place.
    `kept_days`, answers and tombstones together, is when DynamoDB deletes by itself what nobody has let expire.
    """

    def __init__(self, table: Table, *, id_window_seconds: float = 600.0, kept_days: float | None = None) -> None:
        self._table = table
        self._window = timedelta(seconds=id_window_seconds)
        self._kept = None if kept_days is None else timedelta(days=kept_days)
        self._history = History(table)
        self._days: dict[str, float] = {}

    async def expect(self, frame: Frame) -> None:
        """Note that `frame` was accepted: pending, unless the same content is known since less than the window.

        A request that failed for a reason of the moment (`is_retryable`) is pending anew.
        """
        row = Row.pending(frame)
        await self._note_days([row])
        written = await self._table.put(self._item(row), condition=_ABSENT)
        for _ in range(ATTEMPTS):
            there = None if written.before is None else Row.of(written.before)
            if written.done or _is_own(written, row):
                await self._table.write_many(deletes=set() if there is None else there.entries(there.answer))
                return
            if there is None:
                written = await self._table.put(self._item(row), condition=_ABSENT)
            elif there.known.stands_for(frame, self._window) and not _is_retryable(there):
                return
            else:
                written = await self._replace(there, row)
        raise _contended(frame.request_id)

    async def keep(self, answers: Sequence[RecognizedFaces]) -> list[RecognizedFaces]:
        """Keep each answer that is better than what is there; return those that were kept.

        Not kept are answers to other content than that of the pending or recent request, and to an expired request.
        """
        forgotten = await self._forgotten_before(answers)
        without = [without_forgotten(answer, forgotten) for answer in answers]
        fit = await asyncio.to_thread(lambda: [fitting(answer) for answer in without])
        await self._note_days([row for _, row in fit])
        await self._write_entries(key for answer, row in fit for key in row.entries(answer))
        turns: dict[str, list[tuple[RecognizedFaces, Row]]] = defaultdict(list)
        for answer, row in fit:
            turns[answer.request_id].append((answer, row))
        tokens = {token for kept in await together(self._keep_in_turn, turns.values()) for token in kept}
        forgotten = await self._forgotten_before(answers)
        named = {answer.request_id for answer in answers if without_forgotten(answer, forgotten) != answer}
        await together(lambda name: self._take_out(name, lambda answer: without_forgotten(answer, forgotten)), named)
        return [without_forgotten(answer, forgotten) for answer, row in fit if row.token in tokens]

    async def get(self, request_id: str) -> Result | None:
        """Return what is known of the request, None if it was never seen."""
        item = await self._table.get(frame_key(request_id))
        return None if item is None else Row.of(item).result

    async def page(self, query: ResultQuery) -> ResultPage:
        """Return the newest results that fit, a page at a time. StoreError `bad_cursor` for a cursor of nobody's.

        A page may hold less than the limit, and still have a cursor, where few of many results fit. What was written
        in the last second may be missing, unless the page is of a person.
        """
        return await self._history.page(query)

    async def overdue(self, before: datetime, limit: int) -> list[Result]:
        """Return requests still pending that were received before that moment, oldest first."""
        return await self._history.overdue(before, limit)

    async def expire(self, before: datetime, *, forget_before: datetime) -> int:
        """Turn what was received before the first moment into tombstones, drop tombstones before the second.

        Return how many results have become tombstones.
        """
        self._days.clear()
        return await expire_results(self._table, before, forget_before)

    async def forget_person(self, person: str, *, gallery_version: int) -> int:
        """Take the person's name out of every answer; return how many answers held it.

        Answers still to come lose it as well if they were made with a gallery older than `gallery_version`.
        """
        await self._note_forgotten(person, gallery_version)
        forgotten = 0
        for recognized in (True, False):
            partition = person_partition(person, recognized=recognized)
            async for entries in self._table.query("#pk = :pk", {"pk": partition}):
                forgotten += await self._forget_in(person, entries)
        return forgotten

    async def _note_forgotten(self, person: str, gallery_version: int) -> None:
        """Guard against answers of older galleries; a guard against those of still newer ones stays."""
        expires_at = int((now() + FORGOTTEN_FOR).timestamp())
        await self._table.update(
            Key(FORGOTTEN, sha256(person.encode())),
            f"SET #gallery_version = :version, #{TTL} = :expires_at",
            condition="attribute_not_exists(#pk) OR #gallery_version <= :version",
            values={"version": gallery_version, "expires_at": expires_at},
        )

    async def _forget_in(self, person: str, entries: Sequence[Item]) -> int:
        """Take the person out of the answers of those entries, and out those left over by writers that crashed."""
        ids = {Entry.of_person(entry).request_id for entry in entries}
        changes = await together(lambda name: self._take_out(name, lambda answer: without_person(answer, person)), ids)
        left_over = time.time() - _UNDER_WAY_SECONDS
        await self._table.write_many(deletes=[Key.of(entry) for entry in entries if entry["written_at"] < left_over])
        return sum(changes)

    async def _keep_in_turn(self, turns: Sequence[tuple[RecognizedFaces, Row]]) -> list[str]:
        """Return the tokens of those rows, answers to one request, that were kept."""
        return [row.token for answer, row in turns if await self._keep(answer, row)]

    async def _keep(self, answer: RecognizedFaces, row: Row) -> bool:
        """Put the row where it is better than what is there, and delete the entries that stand for nothing."""
        before, place = await self._put(answer, row)
        stale = row.entries(answer) | (set() if before is None else before.entries(before.answer))
        if place is not None:
            stale -= place.entries(answer)
        await self._table.write_many(deletes=stale)
        return place is not None

    async def _put(self, answer: RecognizedFaces, row: Row) -> tuple[Row | None, Row | None]:
        """Return the row whose place was taken, and the one that took it; none of both where a better one stays."""
        place = row
        written = await self._put_better(row)
        for _ in range(ATTEMPTS):
            there = None if written.before is None else Row.of(written.before)
            if written.done or _is_own(written, row):
                return there, place
            if there is None:
                place, written = row, await self._put_better(row)
                continue
            if (found := self._place(there, answer, row)) is None:
                return None, None
            place = found
            await self._write_entries(place.entries(answer))
            written = await self._replace(there, place)
        raise _contended(answer.request_id)

    def _place(self, there: Row, answer: RecognizedFaces, row: Row) -> Row | None:
        """Return the row as it takes the place of what is there, None if that stays."""
        if there.known.is_over(answer, self._window):
            return row
        return row.in_place_of(there) if there.known.yields_to(answer) else None

    async def _put_better(self, row: Row) -> Written:
        """Put the row if there is none, or a worse answer to the very same frame."""
        same = {"moment": row.moment, "content_sha256": row.content_sha256, "camera": row.camera or _NO_CAMERA}
        return await self._table.put(self._item(row), condition=_BETTER, values={"rank": row.rank, **same})

    async def _replace(self, there: Row, row: Row) -> Written:
        """Put the row in the place of the other one, if that is still there."""
        return await self._table.put(self._item(row), condition="#token = :token", values={"token": there.token})

    async def _take_out(self, request_id: str, change: Callable[[RecognizedFaces], RecognizedFaces]) -> bool:
        """Take a name out of the answer to a request, if there is one that holds it, and out of the indexes."""
        for _ in range(ATTEMPTS):
            item = await self._table.get(frame_key(request_id))
            row = None if item is None else Row.of(item)
            answer = None if row is None else row.answer
            if row is None or answer is None or (changed := change(answer)) == answer:
                return False
            if await self._rewrite(row, changed):
                await self._table.write_many(deletes=row.entries(answer) - row.entries(changed))
                return True
        raise _contended(request_id)

    async def _rewrite(self, row: Row, answer: RecognizedFaces) -> bool:
        """Put the answer in the place of the one in the row; return whether nobody was faster."""
        body = compressed(answer)
        written = await self._table.update(
            frame_key(row.request_id),
            "SET #answer = :new",
            condition="#token = :token AND #answer = :old",
            values={"token": row.token, "old": row.body or b"", "new": body},
        )
        return written.done or (written.before is not None and written.before.get("answer") == body)

    async def _forgotten_before(self, answers: Sequence[RecognizedFaces]) -> dict[str, int]:
        """Return the versions from which people are forgotten, by hash, if that can matter to any of the answers."""
        if all(answer.gallery_version is None for answer in answers):
            return {}
        pages = self._table.query("#pk = :pk", {"pk": FORGOTTEN})
        return {item["sk"]: item["gallery_version"] async for page in pages for item in page}

    async def _write_entries(self, keys: Iterable[Key]) -> None:
        times = {"written_at": int(time.time()), TTL: self._expires_at()}
        await self._table.write_many(puts=[{**key._asdict(), **times} for key in keys])

    async def _note_days(self, rows: Sequence[Row]) -> None:
        """Note the days of which there are results, so that the history finds them; mostly they are noted already."""
        if len(self._days) > _MAX_DAYS:
            self._days.clear()
        present = time.monotonic()
        days = {row.day for row in rows if present - self._days.get(row.day, -_NOTE_DAY_SECONDS) >= _NOTE_DAY_SECONDS}
        await self._table.write_many(puts=[{"pk": DAYS, "sk": day, TTL: self._expires_at()} for day in days])
        self._days |= dict.fromkeys(days, present)

    def _item(self, row: Row) -> Item:
        return row.item(self._expires_at())

    def _expires_at(self) -> int | None:
        return None if self._kept is None else int((now() + self._kept).timestamp())


def _is_own(written: Written, row: Row) -> bool:
    """Tell whether the row is there: the answer to a first attempt to write it was lost, and the client tried again."""
    return written.before is not None and written.before["token"] == row.token


def _is_retryable(row: Row) -> bool:
    return row.status == "failed" and is_retryable(row.answer)


def _contended(request_id: str) -> StoreError:
    return StoreError("busy", f"request {request_id!r} was changed by others {ATTEMPTS} times in a row: try again")
