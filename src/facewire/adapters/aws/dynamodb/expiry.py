"""What time does to results in the DynamoDB table: answers become tombstones, tombstones leave."""

from datetime import datetime, timedelta
from functools import partial

from facewire.adapters.aws.dynamodb.items import Item, Key
from facewire.adapters.aws.dynamodb.rows import Row, frame_key, iso, new_token
from facewire.adapters.aws.dynamodb.schema import DAYS, TTL
from facewire.adapters.aws.dynamodb.table import Table, together
from facewire.domain.lifecycle import EXPIRED, EXPIRED_RANK
from facewire.domain.messages import now

#: Index entries read at a time.
_CHUNK = 200
_DAY_LENGTH = len("2026-11-22")
_BURY = f"""
    SET #status = :status, #state = :status, #rank = :rank, #token = :token, #{TTL} = :expires_at
    REMOVE #answer, #camera, #day"""


async def expire_results(table: Table, before: datetime, forget_before: datetime) -> int:
    """Do what `ResultStore.expire` does; DynamoDB deletes by itself the tombstones that nobody drops."""
    expires_at = int((now() + max(before - forget_before, timedelta())).timestamp())
    values = {"pk": DAYS, "day": iso(before)[:_DAY_LENGTH]}
    expired = 0
    async for days in table.query("#pk = :pk AND #sk <= :day", values):
        for day in days:
            expired += await _expire_day(table, day["sk"], iso(before), expires_at)
    await _drop_tombstones(table, iso(forget_before))
    return expired


async def _expire_day(table: Table, day: str, before: str, expires_at: int) -> int:
    """Bury the results of a day; a day that is over and of which there were none is noted no longer."""
    expired = 0
    condition = "#day = :day AND #moment < :before"
    async for entries in table.query(condition, {"day": day, "before": before}, index="by_day", limit=_CHUNK):
        expired += sum(await together(partial(_bury, table, expires_at), entries))
        if not entries and day < before[:_DAY_LENGTH]:
            await table.write_many(deletes=[Key(DAYS, day)])
    return expired


async def _bury(table: Table, expires_at: int, entry: Item) -> bool:
    """Put a tombstone in the place of the result, unless its id is another request's by now."""
    written = await table.update(
        frame_key(entry["pk"]),
        _BURY,
        condition="#moment = :moment AND #rank < :rank",
        values={
            "status": EXPIRED,
            "rank": EXPIRED_RANK,
            "token": new_token(),
            "expires_at": expires_at,
            "moment": entry["moment"],
        },
    )
    if written.done and written.before is not None:
        row = Row.of(written.before)
        await table.write_many(deletes=row.entries(row.answer))
    return written.done


async def _drop_tombstones(table: Table, before: str) -> None:
    condition = "#state = :state AND #moment < :before"
    values = {"state": EXPIRED, "before": before}
    async for entries in table.query(condition, values, index="by_state", limit=_CHUNK):
        await together(partial(_drop, table), entries)


async def _drop(table: Table, entry: Item) -> None:
    values = {"status": EXPIRED, "moment": entry["moment"]}
    await table.delete(frame_key(entry["pk"]), condition="#status = :status AND #moment = :moment", values=values)
