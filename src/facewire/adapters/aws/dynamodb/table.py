"""A DynamoDB table as the stores use it: plain values, strong reads, batches to their end, errors as StoreError."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import structlog

from facewire.adapters.aws.dynamodb.items import Item, Key, Write, attributes, expressions, item_of
from facewire.adapters.aws.dynamodb.schema import INDEXES, ensure_table
from facewire.adapters.aws.errors import AWS_ERRORS, error_code, explain_error
from facewire.domain.errors import StoreError
from facewire.runtime.backoff import end_if_cancelled, growing_pauses

if TYPE_CHECKING:
    from types_aiobotocore_dynamodb import DynamoDBClient

A = TypeVar("A")
T = TypeVar("T")

#: Calls of one operation that are under way at the same time; the client has connections for more.
AT_ONCE = 10
#: Parts in which the whole table is read at the same time.
SEGMENTS = 8
#: Keys that one call reads at most.
_MAX_GET = 100
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.02, 0.5
#: Outcomes that a caller asked for, no faults.
_OUTCOMES = {"ConditionalCheckFailed", "TransactionCanceled", "TransactionConflict", "TransactionInProgress"}
_log = structlog.get_logger()


class Table:
    """One table, shared by the stores of a process. With `create_missing` it is made again where it has gone.

    `indexes` are those that it gets then. `patience_seconds` is how long what DynamoDB leaves undone, or what others
    change at the same time, is tried again.
    Every call raises StoreError: `unreachable`, `unavailable`, `no_such_table`, `no_credentials`, `refused`.
    """

    def __init__(
        self,
        client: "DynamoDBClient",
        name: str,
        *,
        create_missing: bool = False,
        indexes: Mapping[str, tuple[str, str]] = INDEXES,
        patience_seconds: float = 30.0,
    ) -> None:
        self._client = client
        self._name = name
        self._create_missing = create_missing
        self._indexes = indexes
        self._patience_seconds = patience_seconds

    async def get(self, key: Key) -> Item | None:
        """Return the item as it is at this moment, None if there is none."""
        answer = await self._call(self._client.get_item, Key=attributes(key._asdict()), ConsistentRead=True)
        return item_of(answer["Item"]) if "Item" in answer else None

    async def get_many(self, keys: Iterable[Key]) -> dict[Key, Item]:
        """Return the items that are there of those keys, as they are at this moment."""
        every = list(dict.fromkeys(keys))
        chunks = [every[start : start + _MAX_GET] for start in range(0, len(every), _MAX_GET)]
        return {Key.of(item): item for items in await together(self._get_chunk, chunks) for item in items}

    async def query(  # noqa: PLR0913 - all but the condition are named
        self,
        condition: str,
        values: Item,
        *,
        index: str | None = None,
        newest_first: bool = False,
        limit: int | None = None,
        only: str | None = None,
    ) -> AsyncIterator[list[Item]]:
        """Yield the items of a partition page by page, in order of the sort key; `only` filters what was read.

        Reads of the table see every write that has returned; reads of an index may lag behind by a second.
        """
        request = expressions(values, KeyConditionExpression=condition, FilterExpression=only)
        request |= {"ScanIndexForward": not newest_first, "ConsistentRead": index is None}
        request |= {"IndexName": index} if index else {}
        request |= {"Limit": limit} if limit else {}
        async for items in self._pages(self._client.query, request):
            yield items

    async def scan(self, only: str, values: Item, *, segment: int) -> AsyncIterator[list[Key]]:
        """Yield the keys of those items in one of the table's SEGMENTS that fit; sees every write that has returned."""
        request = expressions(values, FilterExpression=only, ProjectionExpression="#pk, #sk")
        request |= {"Segment": segment, "TotalSegments": SEGMENTS, "ConsistentRead": True}
        async for items in self._pages(self._client.scan, request):
            yield [Key.of(item) for item in items]

    async def write(self, writes: Sequence[Write]) -> bool:
        """Do all of the writes, 100 at most; none where a condition is not fulfilled or others write the same just now.

        More than one are a transaction, which takes twice the write units.
        """
        try:
            if len(writes) == 1:
                (write,) = writes
                client: Any = self._client
                calls = {"Put": client.put_item, "Update": client.update_item, "Delete": client.delete_item}
                await self._call(calls[write.kind], **write.request)
            else:
                requests = [{write.kind: {"TableName": self._name, **write.request}} for write in writes]
                await self._ask(self._client.transact_write_items, {"TransactItems": requests})
        except AWS_ERRORS as error:
            _check_cancelled(error)
            return False
        return True

    async def attempts(self, busy: StoreError) -> AsyncIterator[None]:
        """Yield as often as a change may be tried, with growing pauses; raise `busy` when patience ends."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._patience_seconds
        for pause in growing_pauses(_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS):
            yield
            if loop.time() > deadline:
                raise busy
            await asyncio.sleep(pause)

    async def _get_chunk(self, keys: Sequence[Key]) -> list[Item]:
        every = [attributes(key._asdict()) for key in keys]
        left: Mapping[str, Any] = {self._name: {"Keys": every, "ConsistentRead": True}}
        items: list[Item] = []
        throttled = StoreError("unavailable", "DynamoDB left part of a batch unread for too long: it throttles")
        async for _ in self.attempts(throttled):
            answer = await self._ask(self._client.batch_get_item, {"RequestItems": left})
            items += [item_of(item) for item in answer["Responses"].get(self._name, ())]
            left = answer.get("UnprocessedKeys") or {}
            if not left:
                break
        return items

    async def _pages(
        self, operation: Callable[..., Awaitable[Any]], request: dict[str, Any]
    ) -> AsyncIterator[list[Item]]:
        while True:
            page = await self._call(operation, **request)
            yield [item_of(item) for item in page["Items"]]
            if "LastEvaluatedKey" not in page:
                return
            request["ExclusiveStartKey"] = page["LastEvaluatedKey"]

    async def _call(self, operation: Callable[..., Awaitable[T]], **request: Any) -> T:
        return await self._ask(operation, {"TableName": self._name, **request})

    async def _ask(self, operation: Callable[..., Awaitable[T]], request: Mapping[str, Any]) -> T:
        """Return the answer; an outcome that is no fault is raised as it comes, all else as StoreError."""
        try:
            return await _explained(operation, request)
        except StoreError as error:
            if error.code != "no_such_table" or not self._create_missing:
                raise
        _log.warning("the table is missing: made again", table=self._name)
        await ensure_table(self._client, self._name, indexes=self._indexes)
        return await _explained(operation, request)


async def together(work: Callable[[A], Coroutine[Any, Any, T]], parts: Iterable[A]) -> list[T]:
    """Return what `work` returns for each part, a few of them at a time; the first that fails ends all, as it is."""
    places = asyncio.Semaphore(AT_ONCE)

    async def in_place(part: A) -> T:
        async with places:
            return await work(part)

    try:
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(in_place(part)) for part in parts]
            if running:
                await asyncio.wait(running)  # in the block, for `end_if_cancelled`
    except ExceptionGroup as errors:
        end_if_cancelled()
        raise errors.exceptions[0] from errors
    return [task.result() for task in running]


async def _explained(operation: Callable[..., Awaitable[T]], request: Mapping[str, Any]) -> T:
    try:
        return await operation(**request)
    except AWS_ERRORS as error:
        if error_code(error) in _OUTCOMES:
            raise
        if "IndexName" in request and error_code(error) == "Validation":
            detail = f"{error}: `facewire aws init` adds the index that a table of the version before lacks"
            raise StoreError("wrong_table", detail) from error
        raise StoreError(*explain_error(error)) from error


def _check_cancelled(error: Exception) -> None:
    """Raise StoreError where a transaction was cancelled for a reason that will not pass by asking anew."""
    reasons = getattr(error, "response", {}).get("CancellationReasons", ())
    codes = {reason.get("Code", "None") for reason in reasons}
    if not codes <= {"None", "ConditionalCheckFailed", "TransactionConflict"}:
        code = "unavailable" if codes & {"ProvisionedThroughputExceeded", "ThrottlingError"} else "refused"
        raise StoreError(code, str(error)) from error
