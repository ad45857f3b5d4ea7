"""Results in an SQLite file: pending requests, answers, tombstones."""

import sqlite3
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Literal

from facewire.adapters.sqlite.database import Database, erasing
from facewire.domain.answers import (
    mentioned_people,
    recognized_people,
    without_forgotten,
    without_person,
)
from facewire.domain.cursor import read_cursor, write_cursor
from facewire.domain.lifecycle import EXPIRED, FORGOTTEN_FOR, Accepted, Answered, RequestState
from facewire.domain.messages import Frame, RecognizedFaces, Status, now, sha256
from facewire.domain.ports import Result, ResultPage, ResultQuery, ResultStore
from facewire.domain.timing import from_micros, to_micros

#: Rows that one change goes through, so that others get their turn in between.
CHUNK = 200

_RESULT = "r.request_id, r.status, r.camera, r.content_sha256, r.received_at, r.answer"
_GET = f"""
    SELECT {_RESULT} FROM results r WHERE request_id = ? UNION ALL
    SELECT request_id, 'expired', NULL, content_sha256, received_at, NULL FROM tombstones WHERE request_id = ?"""  # noqa: S608 - fixed columns
_PUT = """
    INSERT INTO results VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (request_id) DO UPDATE SET
        status = excluded.status, rank = excluded.rank, camera = excluded.camera,
        content_sha256 = excluded.content_sha256, received_at = excluded.received_at, answer = excluded.answer"""
_OVERDUE = f"""
    SELECT {_RESULT} FROM results r WHERE status = 'pending' AND received_at < ?
    ORDER BY received_at, request_id LIMIT ?"""  # noqa: S608 - fixed columns


class SqliteResultStore(ResultStore):
    """Answers by request id in `database`; what has expired leaves a tombstone.

    `id_window_seconds` is how long a request id stands for one request: the next one with that id takes its place.
    """

    def __init__(self, database: Database, *, id_window_seconds: float = 600.0) -> None:
        self._database = database
        self._window = timedelta(seconds=id_window_seconds)

    async def expect(self, frame: Frame) -> None:
        """Note that `frame` was accepted: pending, unless the same content is known since less than the window.

        A request that failed for a reason of the moment (`is_retryable`) is pending anew.
        """
        await self._database.write(lambda connection: self.note_expected(connection, frame))

    def note_expected(self, connection: sqlite3.Connection, frame: Frame) -> None:
        """Do what `expect` does, within a change of the caller's."""
        state = self._state(connection, frame.request_id)
        transition = state.on(Accepted(frame))
        if transition.outcome != "repeat" and transition.state.kept is not None:
            _write(connection, transition.state.kept, there=state.kept)

    def failure(self, connection: sqlite3.Connection, request_id: str) -> RecognizedFaces | None:
        """Return, within a change of the caller's, the answer that the request has failed with, None for others."""
        query = "SELECT answer FROM results WHERE request_id = ? AND status = 'failed'"
        row = connection.execute(query, (request_id,)).fetchone()
        return None if row is None else RecognizedFaces.from_bytes(row[0])

    def is_pending(self, connection: sqlite3.Connection, frame: Frame) -> bool:
        """Tell, within a change of the caller's, whether the answer to this request of this camera is still to come."""
        query = "SELECT 1 FROM results WHERE request_id = ? AND camera IS ? AND status = 'pending'"
        return connection.execute(query, (frame.request_id, frame.camera)).fetchone() is not None

    async def keep(self, answers: Sequence[RecognizedFaces]) -> list[RecognizedFaces]:
        """Keep each answer that is better than what is there; return those that were kept.

        Not kept are answers to other content than that of the pending or recent request, and to an expired request.
        """

        def change(connection: sqlite3.Connection) -> list[RecognizedFaces]:
            forgotten = dict(connection.execute("SELECT person_sha256, gallery_version FROM forgotten"))
            without = [without_forgotten(answer, forgotten) for answer in answers]
            return [answer for answer in without if self._keep(connection, answer)]

        return await self._database.write(change)

    def _keep(self, connection: sqlite3.Connection, answer: RecognizedFaces) -> bool:
        state = self._state(connection, answer.request_id)
        transition = state.on(Answered(answer))
        if transition.outcome != "kept" or transition.state.kept is None:
            return False
        _write(connection, transition.state.kept, there=state.kept)
        return True

    def _state(self, connection: sqlite3.Connection, request_id: str) -> RequestState:
        row = connection.execute(_GET, (request_id, request_id)).fetchone()
        return RequestState(None if row is None else _result(row), self._window)

    async def get(self, request_id: str) -> Result | None:
        """Return what is known of the request, None if it was never seen."""
        rows = await self._select(_GET, (request_id, request_id))
        return rows[0] if rows else None

    async def page(self, query: ResultQuery) -> ResultPage:
        """Return the newest results that fit, a page at a time. StoreError `bad_cursor` for a cursor of nobody's."""
        statement, values = _page_statement(query)
        results = await self._select(statement, values)
        if len(results) <= query.limit:
            return ResultPage(results, None)
        last = results[query.limit - 1]
        return ResultPage(results[: query.limit], write_cursor(last.received_at, last.request_id))

    async def overdue(self, before: datetime, limit: int) -> list[Result]:
        """Return requests still pending that were received before that moment, oldest first."""
        return await self._select(_OVERDUE, (to_micros(before), limit))

    async def expire(self, before: datetime, *, forget_before: datetime) -> int:
        """Turn what was received before the first moment into tombstones, drop tombstones before the second.

        Return how many results have become tombstones.
        """
        expired = 0
        while count := await self._database.write(lambda connection: _bury(connection, to_micros(before))):
            expired += count
        while await self._database.write(lambda connection: _drop_tombstones(connection, to_micros(forget_before))):
            pass
        return expired

    async def forget_person(self, person: str, *, gallery_version: int) -> int:
        """Take the person's name out of every answer; return how many answers held it.

        Answers still to come lose it as well if they were made with a gallery older than `gallery_version`.
        """
        await self._database.write(lambda connection: _note_forgotten(connection, person, gallery_version))
        forgotten = 0
        while count := await self._database.write(lambda connection: _forget(connection, person)):
            forgotten += count
        return forgotten

    async def _select(self, query: str, values: Sequence[object]) -> list[Result]:
        return await self._database.read(lambda connection: [_result(row) for row in connection.execute(query, values)])


def _write(connection: sqlite3.Connection, kept: Result, *, there: Result | None) -> None:
    """Put what is kept in the place of what is there under that id."""
    if there is not None and there.status == EXPIRED:
        connection.execute("DELETE FROM tombstones WHERE request_id = ?", (kept.request_id,))
    elif there is not None and there.answer is not None:
        connection.execute("DELETE FROM result_people WHERE request_id = ?", (kept.request_id,))
    received_at = to_micros(kept.received_at)
    rank, body = (0, None) if kept.answer is None else (kept.answer.rank, kept.answer.to_bytes())
    row = (kept.request_id, kept.status, rank, kept.camera, kept.content_sha256, received_at, body)
    connection.execute(_PUT, row)
    if kept.answer is not None:
        recognized = recognized_people(kept.answer)
        people = [(name, name in recognized, received_at, kept.request_id) for name in mentioned_people(kept.answer)]
        connection.executemany("INSERT INTO result_people VALUES (?, ?, ?, ?)", people)


def _bury(connection: sqlite3.Connection, before: int) -> int:
    query = "SELECT request_id FROM results WHERE received_at < ? ORDER BY received_at LIMIT ?"
    ids = connection.execute(query, (before, CHUNK)).fetchall()
    tombstone = """INSERT OR REPLACE INTO tombstones
              SELECT request_id, content_sha256, received_at FROM results WHERE request_id = ?"""
    connection.executemany(tombstone, ids)
    connection.executemany("DELETE FROM results WHERE request_id = ?", ids)
    return len(ids)


def _drop_tombstones(connection: sqlite3.Connection, before: int) -> int:
    drop = """DELETE FROM tombstones WHERE request_id IN
              (SELECT request_id FROM tombstones WHERE received_at < ? ORDER BY received_at LIMIT ?)"""
    return connection.execute(drop, (before, CHUNK)).rowcount


def _note_forgotten(connection: sqlite3.Connection, person: str, gallery_version: int) -> None:
    moment = now()
    connection.execute("DELETE FROM forgotten WHERE forgotten_at < ?", (to_micros(moment - FORGOTTEN_FOR),))
    note = """
        INSERT INTO forgotten VALUES (?, ?, ?) ON CONFLICT (person_sha256) DO UPDATE SET
            gallery_version = max(gallery_version, excluded.gallery_version), forgotten_at = excluded.forgotten_at"""
    connection.execute(note, (sha256(person.encode()), gallery_version, to_micros(moment)))


def _forget(connection: sqlite3.Connection, person: str) -> int:
    query = f"""
        SELECT {_RESULT} FROM result_people p JOIN results r ON r.request_id = p.request_id
        WHERE p.person = ? LIMIT ?"""  # noqa: S608 - fixed columns
    results = [_result(row) for row in connection.execute(query, (person, CHUNK)).fetchall()]
    with erasing(connection):
        for result in results:
            answer = None if result.answer is None else without_person(result.answer, person)
            _write(connection, replace(result, answer=answer), there=result)
    return len(results)


def _page_statement(query: ResultQuery) -> tuple[str, list[object]]:
    key, source = "r", "results r"
    if query.person is not None:
        key, source = "p", "result_people p JOIN results r ON r.request_id = p.request_id"
    clauses: list[tuple[str, Sequence[object]]] = [("1", ())]
    if query.person is not None:
        clauses.append(("p.person = ? AND p.recognized = 1", (query.person,)))
    if query.camera is not None:
        clauses.append(("r.camera = ?", (query.camera,)))
    if query.status is not None:
        clauses.append(("r.status = ?", (query.status,)))
    if query.since is not None:
        clauses.append((f"{key}.received_at >= ?", (to_micros(query.since),)))
    if query.until is not None:
        clauses.append((f"{key}.received_at <= ?", (to_micros(query.until),)))
    if query.cursor is not None:
        after, request_id = read_cursor(query.cursor)
        clauses.append((f"({key}.received_at, {key}.request_id) < (?, ?)", (to_micros(after), request_id)))
    where = " AND ".join(clause for clause, _ in clauses)
    order = f"ORDER BY {key}.received_at DESC, {key}.request_id DESC LIMIT ?"
    values = [value for _, bound in clauses for value in bound]
    return f"SELECT {_RESULT} FROM {source} WHERE {where} {order}", [*values, query.limit + 1]  # noqa: S608 - fixed clauses


def _result(row: tuple[str, Status | Literal["expired"], str | None, str, int, bytes | None]) -> Result:
    request_id, status, camera, content_sha256, received_at, body = row
    answer = None if body is None else RecognizedFaces.from_bytes(body)
    return Result(request_id, status, camera, content_sha256, from_micros(received_at), answer)
