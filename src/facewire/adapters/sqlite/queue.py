"""A queue in an SQLite file: leases, retries, dead letters; several named queues share one database."""

import asyncio
import math
import secrets
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

import structlog

from facewire.adapters.sqlite.database import Database
from facewire.domain.errors import QueueError, StoreError
from facewire.domain.failures import error_name
from facewire.domain.messages import MAX_MESSAGE_BYTES, now
from facewire.domain.ports import MAX_RECEIVES, Lease, Queue, Sender
from facewire.domain.timing import SettledClock

T = TypeVar("T")
_log = structlog.get_logger()

#: A queue looks this often for messages that another process may have sent.
POLL_SECONDS = 1.0
#: The dead letters of a queue are a queue of this name behind its own.
DEAD_SUFFIX = ".dead"
#: Dead letters nobody drains are kept this long, the default of SQS, and up to this size.
DEAD_SECONDS = 4 * 86_400.0
DEAD_BYTES = 64 * 1024 * 1024
#: A queue that is received from looks this often for what is out of time: dead letters that are too old, and leases
#: and delays that no clock explains.
TRIM_SECONDS = 60.0
#: Seconds that a lease lasts, unless a queue is made with others.
LEASE_SECONDS = 30.0
#: A delay lasts this long at most, as in SQS. What is due later was delayed before the clock was set back.
LONGEST_DELAY_SECONDS = 900.0

_RETURN_DUE = "UPDATE messages SET visible_at = 0 WHERE queue = ? AND visible_at > 0 AND visible_at <= ?"
_RETURN_IMPOSSIBLE = """
    UPDATE messages SET visible_at = ?
    WHERE queue = ? AND visible_at > ? AND (receipt IS NOT NULL OR visible_at > ?)"""
_DEAD_LETTER = """
    UPDATE messages SET queue = ?, visible_at = 0, receipt = NULL, buried_at = ?, reason = ?
    WHERE id = ? AND receipt = ?"""
_DEAD_LETTER_DUE = """
    UPDATE messages SET queue = ?, visible_at = 0, receipt = NULL, buried_at = ?, reason = ?
    WHERE queue = ? AND visible_at > 0 AND visible_at <= ? AND receives >= ?"""
_ACKNOWLEDGE = "DELETE FROM messages WHERE id = ? AND receipt = ?"
_GIVE_BACK = """
    UPDATE messages SET visible_at = ?, receipt = NULL, receives = receives - ? WHERE id = ? AND receipt = ?"""
_END_LEASES = "UPDATE messages SET visible_at = ? WHERE queue = ? AND visible_at > 0 AND receipt IS NOT NULL"
_NEXT = """
    SELECT id, receives, body FROM messages JOIN bodies USING (id)
    WHERE queue = ? AND visible_at = 0 ORDER BY id LIMIT ?"""
_NEXT_DUE = "SELECT min(visible_at) FROM messages WHERE queue = ? AND visible_at > 0"
_LEND = "UPDATE messages SET visible_at = ?, receipt = id || ':' || ?, receives = receives + 1 WHERE id = ?"


@dataclass(frozen=True, slots=True)
class QueueDepth:
    """How many messages wait (delayed ones included), are lent, and lie dead; `bytes` of those waiting and lent."""

    waiting: int
    leased: int
    dead: int
    bytes: int


class SqliteQueue(Queue):
    """The queue `name` of `database`. A lease ends after `lease_seconds` unless it is extended.

    Messages come oldest first, those returned before newer ones. A lease that ran out is still good as long as nobody
    else has received the message. A message that comes back unacknowledged from its fifth lease goes to the
    dead letters, which are a queue themselves: `dead_letters()`. The oldest of them leave after four days, or where
    they have more than 64 MiB.

    The file holds moments of `clock`, the wall clock, since it outlives the process. Whatever is due later than the
    longest lease, or the longest delay, from now is due now: the clock has been set back.
    """

    def __init__(
        self,
        database: Database,
        name: str,
        *,
        lease_seconds: float = LEASE_SECONDS,
        clock: Callable[[], datetime] = now,
    ) -> None:
        self.name = name
        self._clock = clock
        self._settled = SettledClock(clock=clock)
        self._database = database
        self._lease_seconds = lease_seconds
        self._dead = name + DEAD_SUFFIX
        self._signal = database.signal(f"queue:{name}")
        self._longest_lease = max(lease_seconds, LEASE_SECONDS)
        self._tidied_at = -math.inf

    def dead_letters(self) -> "SqliteQueue":
        """Return the queue of the dead letters; in it messages are lent without limit until acknowledged."""
        return SqliteQueue(self._database, self._dead, lease_seconds=self._lease_seconds, clock=self._clock)

    async def send(self, bodies: Sequence[bytes]) -> None:
        """Keep each of `bodies` durably before returning, all or none; QueueError `too_large` over 1,000,000 bytes."""
        for body in bodies:
            _check_size(body)
        await self._write(lambda connection: insert(connection, self.name, bodies), durable=True)
        self.announce()

    def commits_with(self, queue: Sender) -> bool:
        """Return whether `hand_on` may send to `queue`: it must be in the same file."""
        return isinstance(queue, SqliteQueue) and queue._database is self._database  # noqa: SLF001 - of this class

    async def hand_on(self, leases: Sequence[Lease], sends: Sequence[tuple[Sender, Sequence[bytes]]]) -> None:
        """Send to each queue of `sends` and acknowledge `leases`, all or nothing; QueueError `too_large` as `send`.

        It need not be on the disk at once: a power failure takes back both, and the leased messages are there again.
        """
        queues = [(queue, bodies) for queue, bodies in sends if isinstance(queue, SqliteQueue)]
        for body in (body for _, bodies in queues for body in bodies):
            _check_size(body)
        keys = [_key(lease) for lease in leases]

        def change(connection: sqlite3.Connection) -> None:
            for queue, bodies in queues:
                insert(connection, queue.name, bodies)
            connection.executemany(_ACKNOWLEDGE, keys)

        await self._write(change)
        for queue, _ in queues:
            queue.announce()

    def announce(self) -> None:
        """Wake those who wait to receive, after messages were put in by a change of the caller's (`insert`)."""
        self._signal.notify()

    async def receive(self, limit: int, *, wait: float) -> list[Lease]:
        """Return up to `limit` messages, oldest first, waiting up to `wait` seconds for the first.

        A cancelled receive ends at once; what may have been lent to it is handed back in the background.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait
        while True:
            sent = self._signal.event
            leases, due_in = await self._lend(limit)
            remaining = deadline - loop.time()
            if leases or remaining <= 0:
                return leases
            await _wait(sent, min(remaining, due_in, POLL_SECONDS))

    async def extend(self, leases: Sequence[Lease], seconds: float) -> None:
        """Make the leases end `seconds` from now. A lease that has already ended is passed over."""
        self._longest_lease = max(self._longest_lease, seconds)
        until = self._now() + seconds
        rows = [(until, *_key(lease)) for lease in leases]
        await self._change_all("UPDATE messages SET visible_at = ? WHERE id = ? AND receipt = ?", rows)

    async def acknowledge(self, leases: Sequence[Lease]) -> None:
        """Delete the messages. A lease that has already ended is passed over."""
        await self._change_all(_ACKNOWLEDGE, [_key(lease) for lease in leases])

    async def release(self, leases: Sequence[Lease], *, delay: float = 0, count_attempt: bool = True) -> None:
        """Let others receive the messages again, `delay` seconds from now.

        Without `count_attempt` the receive does not count.

        A delay of more than 15 minutes is one of 15 minutes.
        """
        due = self._now() + min(delay, LONGEST_DELAY_SECONDS)
        rows = [(due, int(not count_attempt), *_key(lease)) for lease in leases]
        await self._change_all(_GIVE_BACK, rows)
        self._signal.notify()

    async def dead_letter(self, lease: Lease, reason: str) -> None:
        """Move the message to the dead letters, with the reason. A lease that has already ended is passed over."""
        key = _key(lease)

        def change(connection: sqlite3.Connection) -> None:
            now = self._now()
            connection.execute(_DEAD_LETTER, (self._dead, now, reason, *key))
            self._trim_dead(connection)

        await self._write(change)
        self._database.signal(f"queue:{self._dead}").notify()

    async def end_leases(self) -> None:
        """End all leases now: for the queue's only consumer, at its start, where a process before it was killed."""
        await self._change_all(_END_LEASES, [(self._now(), self.name)])
        self._signal.notify()

    async def depth(self) -> QueueDepth:
        """Return how much the queue holds; QueueError `removed` where the file of the database is no longer there."""
        with _as_queue_errors():
            await self._database.check()
            return await self._database.read(self._count)

    def _count(self, connection: sqlite3.Connection) -> QueueDepth:
        total, size = totals(connection, self.name)
        lent = "SELECT count(receipt) FROM messages WHERE queue = ? AND visible_at > ?"
        (leased,) = connection.execute(lent, (self.name, self._now())).fetchone()
        return QueueDepth(total - leased, leased, totals(connection, self._dead)[0], size)

    async def _lend(self, limit: int) -> tuple[list[Lease], float]:
        """Lend up to `limit` messages; return them and the seconds until one lent before may come back."""
        token = secrets.token_hex(16)
        try:
            return await self._write(lambda connection: self._take(connection, limit, token))
        except asyncio.CancelledError:
            # The messages may be lent already, to nobody now.
            returning = asyncio.create_task(self._hand_back(token), name=f"hand back {self.name}")
            self._database.in_background(returning)
            raise

    async def _hand_back(self, token: str) -> None:
        try:
            await self._write(lambda connection: self._take_back(connection, token))
        except QueueError as error:
            _log.warning("messages come back when their leases end", queue=self.name, error=error_name(error))
        self._signal.notify()

    def _take(self, connection: sqlite3.Connection, limit: int, token: str) -> tuple[list[Lease], float]:
        now = self._now()
        if not self._tidied_at <= now < self._tidied_at + TRIM_SECONDS:
            self._tidy(connection, now)
        due = self._next_due(connection)
        if due is not None and due <= now:
            self._bring_back(connection, now)
            due = self._next_due(connection)
        rows = connection.execute(_NEXT, (self.name, limit)).fetchall()
        until = now + self._lease_seconds
        connection.executemany(_LEND, [(until, token, number) for number, _, _ in rows])
        leases = [Lease(f"{number}:{token}", body, receives + 1) for number, receives, body in rows]
        return leases, POLL_SECONDS if due is None else max(0.0, due - now)

    def _now(self) -> float:
        return self._clock().timestamp()

    def _next_due(self, connection: sqlite3.Connection) -> float | None:
        due: float | None
        (due,) = connection.execute(_NEXT_DUE, (self.name,)).fetchone()
        return due

    def _bring_back(self, connection: sqlite3.Connection, now: float) -> None:
        if not self.name.endswith(DEAD_SUFFIX):
            reason = f"received {MAX_RECEIVES} times and never acknowledged"
            connection.execute(_DEAD_LETTER_DUE, (self._dead, now, reason, self.name, now, MAX_RECEIVES))
            self._trim_dead(connection)
        connection.execute(_RETURN_DUE, (self.name, now))

    def _tidy(self, connection: sqlite3.Connection, now: float) -> None:
        self._tidied_at = now
        last_delay = now + max(LONGEST_DELAY_SECONDS, self._longest_lease)
        connection.execute(_RETURN_IMPOSSIBLE, (now, self.name, now + self._longest_lease, last_delay))
        self._trim_dead(connection)

    def _trim_dead(self, connection: sqlite3.Connection) -> None:
        now = self._settled().timestamp()
        (_, size) = totals(connection, self._dead)
        oldest = "SELECT id, size, buried_at FROM messages WHERE queue = ? AND visible_at = 0 ORDER BY id LIMIT 1"
        while row := connection.execute(oldest, (self._dead,)).fetchone():
            if size <= DEAD_BYTES and row[2] > now - DEAD_SECONDS:
                return
            connection.execute("DELETE FROM messages WHERE id = ?", row[:1])
            size -= row[1]
            _log.warning("dead_letter_dropped", queue=self.name, size=row[1], dead_bytes=size)

    def _take_back(self, connection: sqlite3.Connection, token: str) -> None:
        undo = """UPDATE messages SET visible_at = 0, receipt = NULL, receives = receives - 1
                  WHERE queue = ? AND visible_at > 0 AND receipt = id || ':' || ?"""
        connection.execute(undo, (self.name, token))

    async def _change_all(self, statement: str, rows: Sequence[tuple[object, ...]]) -> None:
        def change(connection: sqlite3.Connection) -> None:
            connection.executemany(statement, rows)

        await self._write(change)

    async def _write(self, change: Callable[[sqlite3.Connection], T], *, durable: bool = False) -> T:
        with _as_queue_errors():
            return await self._database.write(change, durable=durable)


def insert(
    connection: sqlite3.Connection,
    queue: str,
    bodies: Sequence[bytes],
    *,
    sender: str | None = None,
    request_id: str | None = None,
) -> None:
    """Put messages into the queue, within a change of the caller's."""
    row = "INSERT INTO messages (queue, sender, request_id, size) VALUES (?, ?, ?, ?)"
    for body in bodies:
        number = connection.execute(row, (queue, sender, request_id, len(body))).lastrowid
        connection.execute("INSERT INTO bodies VALUES (?, ?)", (number, body))


def totals(connection: sqlite3.Connection, queue: str) -> tuple[int, int]:
    """Return how many messages the queue holds, lent ones included, and their bytes."""
    row = connection.execute("SELECT messages, bytes FROM queue_totals WHERE queue = ?", (queue,)).fetchone()
    return (0, 0) if row is None else (row[0], row[1])


def _check_size(body: bytes) -> None:
    if len(body) > MAX_MESSAGE_BYTES:
        detail = f"the message has {len(body):,} bytes, a queue takes {MAX_MESSAGE_BYTES:,}: send it smaller"
        raise QueueError("too_large", detail)


def _key(lease: Lease) -> tuple[int, str]:
    number, _, token = lease.receipt.partition(":")
    if not number.isdecimal() or not token:
        raise QueueError("bad_receipt", "the receipt is of another queue: use the one that the lease came with")
    return int(number), lease.receipt


@contextmanager
def _as_queue_errors() -> Iterator[None]:
    try:
        yield
    except StoreError as error:
        raise QueueError(error.code, error.detail) from error


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
