"""Frames that have been committed, bounded in bytes, each request once: the detector's inbox, the gateway's outbox."""

import sqlite3
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Literal

from facewire.adapters.sqlite.database import Database
from facewire.adapters.sqlite.queue import SqliteQueue, insert, totals
from facewire.adapters.sqlite.results import SqliteResultStore
from facewire.domain.errors import IntakeError, QueueError, StoreError
from facewire.domain.lifecycle import Received, RequestState
from facewire.domain.messages import Frame, RecognizedFaces, failed, now
from facewire.domain.ports import Result

#: Notes of accepted requests that one accepted frame clears away once their window is over.
_PRUNE = 10

_REPLACE = "DELETE FROM messages WHERE queue = ? AND request_id = ?"
_HOLDS = "SELECT 1 FROM messages WHERE queue = ? AND request_id = ? AND sender IS ?"
_WAITING = """
    SELECT id, body FROM messages JOIN bodies USING (id)
    WHERE queue = ? AND request_id = ? AND sender IS ? AND receipt IS NULL"""
_WITHDRAW = """
    DELETE FROM messages WHERE queue = ? AND request_id = ?
    AND NOT EXISTS (SELECT 1 FROM seen WHERE request_id = messages.request_id AND accepted_at <> ?)"""


class Inbox(SqliteQueue):
    """The queue `name` of encoded frames (`Frame.to_bytes()`); they come in by `accept`.

    `max_bytes` bounds what it holds, lent frames included. Where it is reached, policy `latest` drops the oldest
    waiting frames of the same camera, `all` refuses the new one. `id_window_seconds` is how long from its receipt on a
    request id stands for one content; the id of a frame that was dropped, or given up and answered so, is free for the
    frame to be sent again. `results` notes each accepted request as pending, `responses` takes the answers to frames
    dropped; both must be in the same database, and change in the same commit as the inbox.
    """

    def __init__(  # noqa: PLR0913 - all but the database are named
        self,
        database: Database,
        name: str = "inbox",
        *,
        max_bytes: int,
        policy: Literal["latest", "all"],
        id_window_seconds: float,
        results: SqliteResultStore | None = None,
        responses: SqliteQueue | None = None,
        lease_seconds: float = 30.0,
        clock: Callable[[], datetime] = now,
    ) -> None:
        super().__init__(database, name, lease_seconds=lease_seconds, clock=clock)
        self._max_bytes = max_bytes
        self._policy = policy
        self._window = id_window_seconds
        self._results = results
        self._responses = responses

    async def accept(self, frame: Frame, *, again: bool = False, anew: bool = False) -> list[Frame]:
        """Commit the frame; return those that had to leave for it, without content.

        Their answers `failed: skipped` are on `responses`; without such a queue they are for the caller to send. A
        request already accepted within the window, with the same content and purpose, changes nothing; with `again`,
        for a sender that hears of its answer in no other way, it changes nothing only while that camera's answer is
        sure to come: the inbox holds the frame, or `results` has the request as pending. A request that is over takes
        its turn in the place of the same frame that still waits. Sent `anew` after an answer that invites to, it
        replaces all that is held of it.
        IntakeError `id_conflict` where it differs, `overloaded` where it does not fit; QueueError where the disk fails.
        """
        try:
            dropped = await self._database.write(
                lambda connection: self._accept(connection, frame, again=again, anew=anew)
            )
        except StoreError as error:
            raise QueueError(error.code, error.detail) from error
        self._signal.notify()
        if dropped and self._responses is not None:
            self._responses.announce()
        return dropped

    async def withdraw(self, requests: Sequence[tuple[str, datetime]]) -> None:
        """Delete the frames of those requests, lent or not; QueueError where the disk fails.

        A request is named by its id and when it was received: one sent anew under the same id stays.
        """
        rows = [(self.name, request_id, received_at.timestamp()) for request_id, received_at in requests]
        await self._change_all(_WITHDRAW, rows)

    def _accept(self, connection: sqlite3.Connection, frame: Frame, *, again: bool, anew: bool) -> list[Frame]:
        now = self._now()
        known = self._is_known(connection, frame, now)
        if anew:
            connection.execute(_REPLACE, (self.name, frame.request_id))
        elif known and (not again or self._is_under_way(connection, frame)):
            return []
        dropped: list[Frame] = []
        if anew or not self._renew(connection, frame):
            dropped = self._put(connection, frame, now)
        self._note(connection, frame, now)
        if self._results is not None:
            self._results.note_expected(connection, frame)
        return dropped

    def _is_known(self, connection: sqlite3.Connection, frame: Frame, now: float) -> bool:
        query = "SELECT content_sha256, enroll_as, accepted_at FROM seen WHERE request_id = ?"
        row = connection.execute(query, (frame.request_id,)).fetchone()
        if row is None:
            return False
        content_sha256, enroll_as, accepted_at = row
        failure = None if self._results is None else self._results.failure(connection, frame.request_id)
        accepted = datetime.fromtimestamp(accepted_at, UTC)
        seen = Result(frame.request_id, "pending", frame.camera, content_sha256, accepted, failure)
        at = datetime.fromtimestamp(now, UTC)
        received = Received(frame, at, same_purpose=enroll_as == frame.enroll_as)
        outcome = RequestState(seen, timedelta(seconds=self._window)).on(received).outcome
        if outcome == "conflict":
            detail = (
                f"request id {frame.request_id!r} was used for another picture or purpose "
                f"in the last {self._window:.0f} s: choose another id"
            )
            raise IntakeError("id_conflict", detail)
        return outcome == "repeat"

    def _is_under_way(self, connection: sqlite3.Connection, frame: Frame) -> bool:
        key = (self.name, frame.request_id, frame.camera)
        if connection.execute(_HOLDS, key).fetchone() is not None:
            return True
        return self._results is not None and self._results.is_pending(connection, frame)

    def _renew(self, connection: sqlite3.Connection, frame: Frame) -> bool:
        """Put the frame in the place of the same one that waits, if it is later; return whether there was one.

        The place in the queue stays: at its end, what is sent again after every deadline would never have its turn. So
        does the size that counts, from which the new one differs by a few bytes at most.
        """
        key = (self.name, frame.request_id, frame.camera)
        for number, body in connection.execute(_WAITING, key).fetchall():
            held = Frame.from_bytes(body)
            if (held.content_sha256, held.enroll_as) == (frame.content_sha256, frame.enroll_as):
                if held.received_at < frame.received_at:
                    connection.execute("UPDATE bodies SET body = ? WHERE id = ?", (frame.to_bytes(), number))
                return True
        return False

    def _put(self, connection: sqlite3.Connection, frame: Frame, now: float) -> list[Frame]:
        """Put the frame at the end of the queue; return those that had to leave for it."""
        body = frame.to_bytes()
        dropped = self._make_room(connection, frame, len(body), now)
        self._skip(connection, dropped)
        insert(connection, self.name, [body], sender=frame.camera, request_id=frame.request_id)
        return dropped

    def _skip(self, connection: sqlite3.Connection, dropped: Sequence[Frame]) -> None:
        """Forget that the frames were accepted, and answer them."""
        connection.executemany("DELETE FROM seen WHERE request_id = ?", [(frame.request_id,) for frame in dropped])
        if self._responses is not None:
            insert(connection, self._responses.name, [_skipped(frame).to_bytes() for frame in dropped])

    def _make_room(self, connection: sqlite3.Connection, frame: Frame, size: int, now: float) -> list[Frame]:
        (_, held) = totals(connection, self.name)
        excess = held + size - self._max_bytes
        dropped: list[Frame] = []
        while excess > 0:
            oldest = self._oldest_of(connection, frame.camera, now)
            if self._policy == "all" or oldest is None:
                detail = (
                    f"the {self.name} holds {held:,} of at most {self._max_bytes:,} bytes, the frame needs {size:,}: "
                    f"send later, or smaller pictures, or raise FACEWIRE_{self.name.upper()}_BYTES"
                )
                raise IntakeError("overloaded", detail)
            number, freed, body = oldest
            connection.execute("DELETE FROM messages WHERE id = ?", (number,))
            dropped.append(Frame.from_bytes(body).model_copy(update={"content": b""}))
            excess -= freed
        return dropped

    def _oldest_of(
        self, connection: sqlite3.Connection, camera: str | None, now: float
    ) -> tuple[int, int, bytes] | None:
        query = """
            SELECT id, size, body FROM messages JOIN bodies USING (id)
            WHERE queue = ? AND sender = ? AND (receipt IS NULL OR visible_at <= ?) ORDER BY id LIMIT 1"""
        row: tuple[int, int, bytes] | None = connection.execute(query, (self.name, camera, now)).fetchone()
        return row

    def _note(self, connection: sqlite3.Connection, frame: Frame, now: float) -> None:
        """Note the request as of its receipt, so that no hand-over lengthens its window; as of now if that is over."""
        note = "INSERT OR REPLACE INTO seen VALUES (?, ?, ?, ?)"
        received_at = frame.received_at.timestamp()
        accepted_at = received_at if received_at > now - self._window else now
        connection.execute(note, (frame.request_id, frame.content_sha256, frame.enroll_as, accepted_at))
        prune = """DELETE FROM seen WHERE request_id IN
                   (SELECT request_id FROM seen WHERE accepted_at <= ? ORDER BY accepted_at LIMIT ?)"""
        connection.execute(prune, (now - self._window, _PRUNE))


def _skipped(frame: Frame) -> RecognizedFaces:
    reason = IntakeError("skipped", "newer frames of the camera took its place: the inbox is full")
    return failed(frame, reason, source="edge")
