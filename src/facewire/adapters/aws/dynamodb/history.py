"""Pages of results and overdue requests, from the indexes of the DynamoDB table."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime

from facewire.adapters.aws.dynamodb.items import Item
from facewire.adapters.aws.dynamodb.rows import Row, frame_key, iso, moment_of, read_moment, states
from facewire.adapters.aws.dynamodb.schema import INDEXES
from facewire.adapters.aws.dynamodb.table import Table, together
from facewire.domain.answers import recognized_people
from facewire.domain.cursor import read_cursor, write_cursor
from facewire.domain.lifecycle import EXPIRED
from facewire.domain.ports import Result, ResultPage, ResultQuery

#: Entries that one page looks at; after them it ends with a cursor, however few results fit.
EXAMINED = 1000
#: Entries looked at together where some may not fit.
_CHUNK = 100
#: Before every moment, and after every one.
_FIRST, _LAST = "0", "~"
#: Behind a time, greater than what joins it to a request id.
_AFTER_ID = "$"


class History:
    """Results by time: all, of a camera, of a person, of a status. A page looks at `examined` entries, or few more.

    `since` tells from when on results count; an index may still show what has changed, so each row is read itself.
    """

    def __init__(self, table: Table, since: Callable[[], datetime | None], *, examined: int = EXAMINED) -> None:
        self._table = table
        self._since = since
        self._examined = examined

    async def page(self, query: ResultQuery) -> ResultPage:
        """Return the newest results that fit; StoreError `bad_cursor` for a cursor of nobody's."""
        low, high = self._span(query)
        exact = query.status is None and (query.camera is None or query.person is None)
        size = query.limit + 1 if exact else _CHUNK
        found: list[Result] = []
        examined, more = 0, low < high
        while more:
            moments, more = await self._newest(_sources(query), low, high, size)
            found += [result for result in await self._results(moments) if _fits(result, query)]
            if len(found) > query.limit:
                last = found[query.limit - 1]
                return ResultPage(found[: query.limit], write_cursor(last.received_at, last.request_id))
            examined += len(moments)
            if more and examined >= self._examined:
                return ResultPage(found, write_cursor(*read_moment(moments[-1])))
            high = moments[-1] if moments else low
        return ResultPage(found, None)

    async def overdue(self, before: datetime, limit: int) -> list[Result]:
        """Return requests still pending that were received before that moment, oldest first."""
        sources = [("by_state", state) for state in states("pending")]
        low, high = self._span(ResultQuery())[0], iso(before)
        pages = await together(lambda source: self._between(source, low, high, limit, newest_first=False), sources)
        moments = sorted({moment for page in pages for moment in page})[:limit]
        return [result for result in await self._results(moments) if result.status == "pending"]

    async def _newest(
        self, sources: Sequence[tuple[str, str]], low: str, high: str, size: int
    ) -> tuple[list[str], bool]:
        """Return the newest moments from `low` to before `high`, `size` or fewer, and whether there may be more.

        Each source gives its newest `size`, so the newest `size` of all are among them.
        """
        if low >= high:
            return [], False
        pages = await together(lambda source: self._between(source, low, high, size, newest_first=True), sources)
        moments = sorted({moment for page in pages for moment in page}, reverse=True)
        return moments[:size], len(moments) > size or any(len(page) >= size for page in pages)

    async def _between(
        self, source: tuple[str, str], low: str, high: str, size: int, *, newest_first: bool
    ) -> list[str]:
        index, value = source
        partition, sort = INDEXES[index]
        condition = f"#{partition} = :value AND #{sort} BETWEEN :low AND :high"
        values: Item = {"value": value, "low": low, "high": _last_before(high)}
        pages = self._table.query(condition, values, index=index, newest_first=newest_first, limit=size)
        return [item[sort] for item in await anext(pages)]

    async def _results(self, moments: Sequence[str]) -> list[Result]:
        """Return the results of those entries that still stand for one, in their order."""
        items = await self._table.get_many(frame_key(read_moment(moment)[1]) for moment in moments)
        since = self._since()
        rows = {row.moment: row for row in (Row.of(item).as_of(since) for item in items.values())}
        valid = [rows[moment] for moment in moments if moment in rows and rows[moment].status != EXPIRED]
        return await asyncio.to_thread(lambda: [row.result for row in valid])

    def _span(self, query: ResultQuery) -> tuple[str, str]:
        """Return the moment the results start from, and the one they end before."""
        lows = [iso(moment) for moment in (query.since, self._since()) if moment is not None]
        high = _LAST if query.until is None else iso(query.until) + _AFTER_ID
        high = high if query.cursor is None else min(high, moment_of(*read_cursor(query.cursor)))
        return max(lows, default=_FIRST), high


def _sources(query: ResultQuery) -> list[tuple[str, str]]:
    """Return the keys of an index under which all results that fit are, and few that do not."""
    if query.person is not None:
        return [("by_person", query.person)]
    if query.status is None and query.camera is not None:
        return [("by_camera", query.camera)]
    statuses = ("done", "pending", "failed") if query.status is None else (query.status,)
    if query.status == "done" and query.camera is not None:
        return [("by_camera", query.camera)]
    return [("by_state", state) for status in statuses for state in states(status)]


def _last_before(moment: str) -> str:
    """Return what is greater than any moment before that one: DynamoDB's BETWEEN takes its end in."""
    return f"{moment[:-1]}{chr(ord(moment[-1]) - 1)}\U0010ffff"


def _fits(result: Result, query: ResultQuery) -> bool:
    if query.camera is not None and result.camera != query.camera:
        return False
    if query.status is not None and result.status != query.status:
        return False
    return query.person is None or (result.answer is not None and query.person in recognized_people(result.answer))
