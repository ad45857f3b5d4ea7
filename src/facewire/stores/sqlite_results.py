"""Results in an SQLite file: pending requests, answers, tombstones."""

import base64
import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from facewire.errors import StoreError
from facewire.messages import Frame, RecognizedFaces, Status, now, sha256
from facewire.sqlite import Database, erasing, from_micros, to_micros
from facewire.stores import Result, ResultPage, ResultQuery, ResultStore
from facewire.stores.answers import PASSING_FAILURES, mentioned_people, recognized_people, without_person

#: Rows that one change goes through, so that others get their turn in between.
CHUNK = 200

#: Longer than any message stays under way.
_FORGOTTEN_MICROS = 24 * 3600 * 1_000_000
_EXPIRED = "expired"
_EXPIRED_RANK = 1000
_RESULT = "r.request_id, r.status, r.camera, r.content_sha256, r.received_at, r.answer"
_GET = f"""
    SELECT {_RESULT} FROM results r WHERE request_id = ? UNION ALL
    SELECT request_id, 'expired', NULL, content_sha256, received_at, NULL FROM tombstones WHERE request_id = ?"""  # noqa: S608 - fixed columns
_OVERDUE = f"""
    SELECT {_RESULT} FROM results r WHERE status = 'pending' AND received_at < ?
    ORDER BY received_at, request_id LIMIT ?"""  # noqa: S608 - fixed columns


@dataclass(frozen=True, slots=True)
class _Known:
    """What is kept under a request id, a tombstone included."""

    status: str
    rank: int
    content_sha256: str
    received_at: int


class SqliteResultStore(ResultStore):
    """Answers by request id in `database`; what has expired leaves a tombstone.

    `id_window_seconds` is how long a request id stands for one request: the next one with that id takes its place.
    """

    def __init__(self, database: Database, *, id_window_seconds: float = 600.0) -> None:
        self._database = database
        self._window = round(id_window_seconds * 1_000_000)

    async def expect(self, frame: Frame) -> None:
        """Note that `frame` was accepted: pending, unless the same content is known since less than the window.

        A request that failed for a reason of the moment (`PASSING_FAILURES`) is pending anew.
        """
        await self._database.write(lambda connection: self.note_expected(connection, frame))

    def note_expected(self, connection: sqlite3.Connection, frame: Frame) -> None:
        """Do what `expect` does, within a change of the caller's."""
        received = to_micros(frame.received_at)
        known = _known(connection, frame.request_id)
        recent = known is not None and received - known.received_at <= self._window
        same = known is not None and _same(known, frame.content_sha256)
        if recent and same and not self.invites_again(connection, frame.request_id):
            return
        _delete(connection, frame.request_id)
        row = (frame.request_id, frame.camera, frame.content_sha256, received)
        connection.execute("INSERT INTO results VALUES (?, 'pending', 0, ?, ?, ?, NULL)", row)

    def invites_again(self, connection: sqlite3.Connection, request_id: str) -> bool:
        """Tell, within a change of the caller's, whether the request failed for a reason of the moment."""
        query = "SELECT answer FROM results WHERE request_id = ? AND status = 'failed'"
        row = connection.execute(query, (request_id,)).fetchone()
        error = None if row is None else RecognizedFaces.from_bytes(row[0]).error
        return error is not None and error.code in PASSING_FAILURES

    async def keep(self, answers: Sequence[RecognizedFaces]) -> list[RecognizedFaces]:
        """Keep each answer that is better than what is there; return those that were kept.

        Not kept are answers to other content than that of the pending or recent request, and to an expired request.
        """

        def change(connection: sqlite3.Connection) -> list[RecognizedFaces]:
            forgotten = dict(connection.execute("SELECT person_sha256, gallery_version FROM forgotten"))
            without = [_without_forgotten(answer, forgotten) for answer in answers]
            return [answer for answer in without if self._keep(connection, answer)]

        return await self._database.write(change)

    def _keep(self, connection: sqlite3.Connection, answer: RecognizedFaces) -> bool:
        known = _known(connection, answer.request_id)
        if known is not None and self._is_next_request(known, answer):
            _delete(connection, answer.request_id)
            known = None
        if known is not None and (answer.rank <= known.rank or not _same(known, answer.content_sha256)):
            return False
        received = to_micros(answer.received_at) if known is None else known.received_at
        row = (answer.request_id, answer.camera, answer.content_sha256, received)
        connection.execute("INSERT OR IGNORE INTO results VALUES (?, 'pending', 0, ?, ?, ?, NULL)", row)
        _write_answer(connection, answer, received)
        return True

    def _is_next_request(self, known: _Known, answer: RecognizedFaces) -> bool:
        """Tell whether the answer is to a later request under a used id, one that nobody has announced.

        A failure without a content hash comes from a message that could not be read, and proves no new request.
        """
        if known.status == "pending" or (answer.status == "failed" and not answer.content_sha256):
            return False
        return to_micros(answer.received_at) - known.received_at > self._window

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
        return ResultPage(results[: query.limit], _cursor(last))

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


def _known(connection: sqlite3.Connection, request_id: str) -> _Known | None:
    query = "SELECT status, rank, content_sha256, received_at FROM results WHERE request_id = ?"
    row = connection.execute(query, (request_id,)).fetchone()
    if row is None:
        query = "SELECT ?, ?, content_sha256, received_at FROM tombstones WHERE request_id = ?"
        row = connection.execute(query, (_EXPIRED, _EXPIRED_RANK, request_id)).fetchone()
    return None if row is None else _Known(*row)


def _same(known: _Known, content_sha256: str) -> bool:
    """Messages of earlier deployments have no content hash; they count as the request of their id."""
    return known.content_sha256 == content_sha256 or not known.content_sha256 or not content_sha256


def _delete(connection: sqlite3.Connection, request_id: str) -> None:
    connection.execute("DELETE FROM results WHERE request_id = ?", (request_id,))
    connection.execute("DELETE FROM tombstones WHERE request_id = ?", (request_id,))


def _write_answer(connection: sqlite3.Connection, answer: RecognizedFaces, received_at: int) -> None:
    update = """
        UPDATE results SET status = ?, rank = ?, answer = ?, camera = coalesce(camera, ?),
            content_sha256 = coalesce(nullif(content_sha256, ''), ?) WHERE request_id = ?"""
    values = (answer.status, answer.rank, answer.to_bytes(), answer.camera, answer.content_sha256, answer.request_id)
    connection.execute(update, values)
    connection.execute("DELETE FROM result_people WHERE request_id = ?", (answer.request_id,))
    recognized = recognized_people(answer)
    people = [(name, name in recognized, received_at, answer.request_id) for name in mentioned_people(answer)]
    connection.executemany("INSERT INTO result_people VALUES (?, ?, ?, ?)", people)


def _bury(connection: sqlite3.Connection, before: int) -> int:
    query = "SELECT request_id FROM results WHERE received_at < ? ORDER BY received_at LIMIT ?"
    ids = connection.execute(query, (before, CHUNK)).fetchall()
    bury = """INSERT OR REPLACE INTO tombstones
              SELECT request_id, content_sha256, received_at FROM results WHERE request_id = ?"""
    connection.executemany(bury, ids)
    connection.executemany("DELETE FROM results WHERE request_id = ?", ids)
    return len(ids)


def _drop_tombstones(connection: sqlite3.Connection, before: int) -> int:
    drop = """DELETE FROM tombstones WHERE request_id IN
              (SELECT request_id FROM tombstones WHERE received_at < ? ORDER BY received_at LIMIT ?)"""
    return connection.execute(drop, (before, CHUNK)).rowcount


def _note_forgotten(connection: sqlite3.Connection, person: str, gallery_version: int) -> None:
    moment = to_micros(now())
    connection.execute("DELETE FROM forgotten WHERE forgotten_at < ?", (moment - _FORGOTTEN_MICROS,))
    row = (sha256(person.encode()), gallery_version, moment)
    connection.execute("INSERT OR REPLACE INTO forgotten VALUES (?, ?, ?)", row)


def _without_forgotten(answer: RecognizedFaces, forgotten: Mapping[str, int]) -> RecognizedFaces:
    """Return the answer without the people who were deleted after its gallery; enrolling somebody anew stays."""
    if not forgotten or answer.gallery_version is None:
        return answer
    for person in mentioned_people(answer):
        if answer.gallery_version < forgotten.get(sha256(person.encode()), 0):
            answer = without_person(answer, person, keep_enrolment=True)
    return answer


def _forget(connection: sqlite3.Connection, person: str) -> int:
    query = """
        SELECT answer, r.received_at FROM result_people p JOIN results r ON r.request_id = p.request_id
        WHERE p.person = ? LIMIT ?"""
    rows = connection.execute(query, (person, CHUNK)).fetchall()
    with erasing(connection):
        for body, received_at in rows:
            _write_answer(connection, without_person(RecognizedFaces.from_bytes(body), person), received_at)
    return len(rows)


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
        clauses.append((f"({key}.received_at, {key}.request_id) < (?, ?)", _read_cursor(query.cursor)))
    where = " AND ".join(clause for clause, _ in clauses)
    order = f"ORDER BY {key}.received_at DESC, {key}.request_id DESC LIMIT ?"
    values = [value for _, bound in clauses for value in bound]
    return f"SELECT {_RESULT} FROM {source} WHERE {where} {order}", [*values, query.limit + 1]  # noqa: S608 - fixed clauses


def _cursor(last: Result) -> str:
    return base64.urlsafe_b64encode(json.dumps([to_micros(last.received_at), last.request_id]).encode()).decode()


def _read_cursor(cursor: str) -> tuple[int, str]:
    try:
        received_at, request_id = json.loads(base64.b64decode(cursor, altchars=b"-_", validate=True))
    except (ValueError, TypeError) as error:
        raise _bad_cursor() from error
    if type(received_at) is not int or abs(received_at) >= 1 << 63 or not isinstance(request_id, str):
        raise _bad_cursor()
    return received_at, request_id


def _bad_cursor() -> StoreError:
    return StoreError("bad_cursor", "the cursor is not one that a page of results gave: start without one")


def _result(row: tuple[str, Status | Literal["expired"], str | None, str, int, bytes | None]) -> Result:
    request_id, status, camera, content_sha256, received_at, body = row
    answer = None if body is None else RecognizedFaces.from_bytes(body)
    return Result(request_id, status, camera, content_sha256, from_micros(received_at), answer)
