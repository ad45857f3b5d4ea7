"""Pages of results and overdue requests, from the indexes of the DynamoDB table."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from facewire.adapters.aws.dynamodb.items import Item
from facewire.adapters.aws.dynamodb.rows import (
    FIRST,
    LAST,
    Entry,
    Row,
    frame_key,
    iso,
    moment_of,
    person_partition,
    read_moment,
)
from facewire.adapters.aws.dynamodb.schema import DAYS, INDEXES
from facewire.adapters.aws.dynamodb.table import Table
from facewire.domain.answers import recognized_people
from facewire.domain.cursor import read_cursor, write_cursor
from facewire.domain.lifecycle import EXPIRED
from facewire.domain.ports import Result, ResultPage, ResultQuery

#: Entries that one page looks at; after them it ends with a cursor, however few results fit.
EXAMINED = 1000
#: Entries looked at together where some may not fit.
_CHUNK = 100
_DAY_LENGTH = len("2026-11-22")
#: Behind a time, greater than what joins it to a request id.
_AFTER_ID = "$"


@dataclass(frozen=True, slots=True)
class _Source:
    """A partition of an index, or of the table itself."""

    value: str
    index: str | None = None


class History:
    """Results by time: all, of a camera, of a person, of a status. A page looks at `examined` entries, or few more."""

    def __init__(self, table: Table, *, examined: int = EXAMINED) -> None:
        self._table = table
        self._examined = examined

    async def page(self, query: ResultQuery) -> ResultPage:
        """Return the newest results that fit; StoreError `bad_cursor` for a cursor of nobody's."""
        low, high = _span(query)
        found: list[Result] = []
        examined = 0
        if low >= high:
            return ResultPage(found, None)
        async for entries in self._entries(query, low, high):
            found += await self._results(entries, query)
            if len(found) > query.limit:
                last = found[query.limit - 1]
                return ResultPage(found[: query.limit], write_cursor(last.received_at, last.request_id))
            examined += len(entries)
            if examined >= self._examined:
                return ResultPage(found, write_cursor(*read_moment(entries[-1].moment)))
        return ResultPage(found, None)

    async def overdue(self, before: datetime, limit: int) -> list[Result]:
        """Return requests still pending that were received before that moment, oldest first."""
        query = ResultQuery(status="pending")
        values = {"state": "pending", "before": iso(before)}
        condition = "#state = :state AND #moment < :before"
        found: list[Result] = []
        async for items in self._table.query(condition, values, index="by_state", limit=limit):
            found += await self._results([Entry.of_index(item) for item in items], query)
            if len(found) >= limit:
                break
        return found[:limit]

    async def _entries(self, query: ResultQuery, low: str, high: str) -> AsyncIterator[list[Entry]]:
        """Yield the entries from `low` to before `high`, newest first, in parts."""
        exact = query.status is None and (query.camera is None or query.person is None)
        size = query.limit + 1 if exact else _CHUNK
        async for source in self._sources(query, low, high):
            async for items in self._between(source, low, high, size):
                entries = [Entry.of_index(item) if source.index else Entry.of_person(item) for item in items]
                yield [entry for entry in entries if entry.moment < high]

    async def _sources(self, query: ResultQuery, low: str, high: str) -> AsyncIterator[_Source]:
        """Yield what holds all entries that fit and few that do not, newest first."""
        if query.person is not None:
            yield _Source(person_partition(query.person, recognized=True))
        elif query.status in {"pending", "failed"}:
            yield _Source(str(query.status), "by_state")
        elif query.camera is not None:
            yield _Source(query.camera, "by_camera")
        else:
            async for days in self._between(_Source(DAYS), low[:_DAY_LENGTH], high[:_DAY_LENGTH]):
                for day in days:
                    yield _Source(day["sk"], "by_day")

    def _between(self, source: _Source, low: str, high: str, limit: int | None = None) -> AsyncIterator[list[Item]]:
        partition, sort = (INDEXES[source.index], "moment") if source.index else ("pk", "sk")
        return self._table.query(
            f"#{partition} = :value AND #{sort} BETWEEN :low AND :high",
            {"value": source.value, "low": low, "high": high},
            index=source.index,
            newest_first=True,
            limit=limit,
        )

    async def _results(self, entries: Sequence[Entry], query: ResultQuery) -> list[Result]:
        """Return the results of those entries that still stand for one, in their order, if they fit."""
        items = await self._table.get_many(frame_key(entry.request_id) for entry in entries)
        rows = {key.pk: Row.of(item) for key, item in items.items()}
        valid = [rows[entry.request_id] for entry in entries if _is_valid(entry, rows.get(entry.request_id))]
        results = await asyncio.to_thread(lambda: [row.result for row in valid])
        return [result for result in results if _fits(result, query)]


def _is_valid(entry: Entry, row: Row | None) -> bool:
    return row is not None and row.status != EXPIRED and entry.stands_for(row)


def _fits(result: Result, query: ResultQuery) -> bool:
    if query.camera is not None and result.camera != query.camera:
        return False
    if query.status is not None and result.status != query.status:
        return False
    return query.person is None or (result.answer is not None and query.person in recognized_people(result.answer))


def _span(query: ResultQuery) -> tuple[str, str]:
    """Return the moment the results start from, and the one they end before."""
    low = FIRST if query.since is None else iso(query.since)
    high = LAST if query.until is None else iso(query.until) + _AFTER_ID
    return low, high if query.cursor is None else min(high, moment_of(*read_cursor(query.cursor)))
