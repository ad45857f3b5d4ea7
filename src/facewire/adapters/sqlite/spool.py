"""What waits on this machine until SQS, or a device, takes it: queues in files of bounded size."""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

from facewire.adapters.sqlite.database import Database
from facewire.adapters.sqlite.inbox import Inbox
from facewire.adapters.sqlite.queue import SqliteQueue, insert
from facewire.domain.errors import QueueError
from facewire.domain.messages import Frame

#: Answers to refused frames that wait beside the inbox, one of about half a KiB for each frame of a long outage.
REFUSALS_BYTES = 64 * 1024**2


class Spool(SqliteQueue):
    """A queue whose file holds at most `max_bytes` of messages, those of its other queues included.

    `setting` is what the configuration calls that bound. What is sent goes to each of `copies` as well, queues of the
    same file, in the same commit. Where a stage hands a message on from the same file, the bound would be passed over:
    give what a stage sends to a file of its own.
    """

    def __init__(  # noqa: PLR0913 - all but database and name are named
        self,
        database: Database,
        name: str,
        *,
        max_bytes: int,
        lease_seconds: float,
        setting: str = "spool_bytes",
        copies: Sequence[SqliteQueue] = (),
    ) -> None:
        super().__init__(database, name, lease_seconds=lease_seconds)
        self._max_bytes = max_bytes
        self._setting = setting
        self._copies = copies

    async def send(self, bodies: Sequence[bytes]) -> None:
        """Keep each of `bodies` durably before returning, all or none; QueueError `spool_full` for too many."""
        await self._write(lambda connection: self._keep(connection, bodies), durable=True)
        self.announce()
        for copy in self._copies:
            copy.announce()

    async def check_room(self) -> None:
        """Return where the file is not full; QueueError `spool_full` where it is."""
        await self._database.read(lambda connection: self._check_room(connection, 1))

    def _keep(self, connection: sqlite3.Connection, bodies: Sequence[bytes]) -> None:
        names = [self.name, *(copy.name for copy in self._copies)]
        self._check_room(connection, len(names) * sum(len(body) for body in bodies))
        for name in names:
            insert(connection, name, bodies)

    def _check_room(self, connection: sqlite3.Connection, needed: int) -> None:
        (held,) = connection.execute("SELECT coalesce(sum(bytes), 0) FROM queue_totals").fetchone()
        if held + needed > self._max_bytes:
            detail = (
                f"{self.name}: the file holds {held:,} of at most {self._max_bytes:,} bytes, {needed:,} more do not "
                f"fit: frames wait until what is here has left; raise {self._setting} for longer outages"
            )
            raise QueueError("spool_full", detail)


@dataclass(frozen=True, slots=True)
class FrameIntake:
    """Where frames come in: with policy `latest` each may cost another its place, which is answered to `refusals`."""

    inbox: Inbox
    refusals: Spool

    async def accept(self, frame: Frame, *, again: bool = False) -> list[Frame]:
        """Commit the frame as the inbox does; QueueError `spool_full` while there is no room for answers to others."""
        await self.refusals.check_room()
        return await self.inbox.accept(frame, again=again)
