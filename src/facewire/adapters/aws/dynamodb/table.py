"""A DynamoDB table as the stores use it: plain values, strong reads, batches to their end, errors as StoreError."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import structlog

from facewire.adapters.aws.dynamodb.items import Item, Key, Value, Write, attributes, expressions, item_of
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
#: What one call takes at most.
_MAX_GET, _MAX_WRITE = 100, 25
#: How often and how long DynamoDB is asked for what it left of a batch, as it does when it throttles.
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.05, 1.0
_BATCH_SECONDS = 15.0
#: Outcomes that a caller asked for, no faults.
_OUTCOMES = {"ConditionalCheckFailed", "TransactionCanceled", "TransactionInProgress"}
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Written:
    """Whether a conditional write was done, and the item that was there before it; None if there was none."""

    done: bool
    before: Item | None


class Table:
    """One table, shared by the stores of a process. With `create_missing` it is made again where it has gone.

    `indexes` are those that it gets then.
    Every call raises StoreError: `unreachable`, `unavailable`, `no_such_table`, `no_credentials`, `refused`.
    """

    def __init__(
        self,
        client: "DynamoDBClient",
        name: str,
        *,
        create_missing: bool = False,
        indexes: Mapping[str, str] = INDEXES,
    ) -> None:
        self._client = client
        self._name = name
        self._create_missing = create_missing
        self._indexes = indexes

    async def get(self, key: Key) -> Item | None:
        """Return the item as it is at this moment, None if there is none."""
        answer = await self._call(self._client.get_item, Key=key.attributes(), ConsistentRead=True)
        return item_of(answer["Item"]) if "Item" in answer else None

    async def get_many(self, keys: Iterable[Key]) -> dict[Key, Item]:
        """Return the items that are there of those keys, as they are at this moment."""
        found = await together(self._get_chunk, _chunks(dict.fromkeys(keys), _MAX_GET))
        return {Key.of(item): item for items in found for item in items}

    async def query(  # noqa: PLR0913 - all but the condition are named
        self,
        condition: str,
        values: Mapping[str, Value],
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
        while True:
            page = await self._call(self._client.query, **request)
            yield [item_of(item) for item in page["Items"]]
            if "LastEvaluatedKey" not in page:
                return
            request["ExclusiveStartKey"] = page["LastEvaluatedKey"]

    async def put(self, item: Item, *, condition: str, values: Mapping[str, Value] | None = None) -> Written:
        """Put the item in the place of what is there if that fulfils the condition."""
        request = expressions(values or {}, ConditionExpression=condition)
        return await self._write(self._client.put_item, Item=attributes(item), **request)

    async def update(self, key: Key, update: str, *, condition: str, values: Mapping[str, Value]) -> Written:
        """Change the item if it fulfils the condition."""
        request = expressions(values, UpdateExpression=update, ConditionExpression=condition)
        return await self._write(self._client.update_item, Key=key.attributes(), **request)

    async def delete(self, key: Key, *, condition: str, values: Mapping[str, Value]) -> Written:
        """Delete the item if it fulfils the condition."""
        request = expressions(values, ConditionExpression=condition)
        return await self._write(self._client.delete_item, Key=key.attributes(), **request)

    async def write_many(self, *, puts: Iterable[Item] = (), deletes: Iterable[Key] = ()) -> None:
        """Put and delete without a condition, each item once; what was done when it fails stays done."""
        requests: list[dict[str, Any]] = [{"PutRequest": {"Item": attributes(item)}} for item in puts]
        requests += [{"DeleteRequest": {"Key": key.attributes()}} for key in dict.fromkeys(deletes)]
        await together(self._write_chunk, _chunks(requests, _MAX_WRITE))

    async def transact(self, writes: Sequence[Write]) -> bool:
        """Do all of the writes, 100 at most, or none where a condition is not fulfilled or others were faster."""
        requests = [{write.kind: {"TableName": self._name, **write.request}} for write in writes]
        try:
            await self._ask(self._client.transact_write_items, {"TransactItems": requests})
        except AWS_ERRORS as error:
            _check_cancelled(error)
            return False
        return True

    async def _get_chunk(self, keys: Sequence[Key]) -> list[Item]:
        left: dict[str, Any] = {self._name: {"Keys": [key.attributes() for key in keys], "ConsistentRead": True}}
        items: list[Item] = []
        for pause in _until_done("read"):
            answer = await self._ask(self._client.batch_get_item, {"RequestItems": left})
            items += [item_of(item) for item in answer["Responses"].get(self._name, ())]
            left = answer.get("UnprocessedKeys") or {}
            if not left:
                break
            await asyncio.sleep(pause)
        return items

    async def _write_chunk(self, requests: Sequence[Any]) -> None:
        left: dict[str, Any] = {self._name: requests}
        for pause in _until_done("write"):
            answer = await self._ask(self._client.batch_write_item, {"RequestItems": left})
            left = answer.get("UnprocessedItems") or {}
            if not left:
                break
            await asyncio.sleep(pause)

    async def _write(self, operation: Callable[..., Awaitable[Any]], **request: Any) -> Written:
        old = "ALL_OLD"
        try:
            answer = await self._call(operation, ReturnValues=old, ReturnValuesOnConditionCheckFailure=old, **request)
        except AWS_ERRORS as error:
            before = getattr(error, "response", {}).get("Item")
            return Written(done=False, before=item_of(before) if before else None)
        return Written(done=True, before=item_of(answer["Attributes"]) if "Attributes" in answer else None)

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
        raise StoreError(*explain_error(error)) from error


def _check_cancelled(error: Exception) -> None:
    """Raise StoreError where a transaction was cancelled for a reason that will not pass by asking anew."""
    reasons = getattr(error, "response", {}).get("CancellationReasons", ())
    codes = {reason.get("Code", "None") for reason in reasons}
    if not codes <= {"None", "ConditionalCheckFailed", "TransactionConflict"}:
        code = "unavailable" if codes & {"ProvisionedThroughputExceeded", "ThrottlingError"} else "refused"
        raise StoreError(code, str(error)) from error


def _until_done(what: str) -> Iterator[float]:
    """Yield pauses until the deadline; StoreError `unavailable` then."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _BATCH_SECONDS
    for pause in growing_pauses(_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS):
        yield pause
        if loop.time() > deadline:
            detail = f"DynamoDB left part of a batch undone for {_BATCH_SECONDS:.0f} s, in a {what}: it throttles"
            raise StoreError("unavailable", detail)


def _chunks(values: Iterable[T], size: int) -> Iterator[list[T]]:
    rest = iter(values)
    while chunk := list(islice(rest, size)):
        yield chunk
