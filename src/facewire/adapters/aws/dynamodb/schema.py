"""The table in DynamoDB: its keys, its indexes and its TTL; made where it is missing."""

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING

from facewire.adapters.aws.dynamodb.items import TTL
from facewire.adapters.aws.errors import AWS_ERRORS, aws_errors_as, error_code
from facewire.domain.errors import StoreError

if TYPE_CHECKING:
    from types_aiobotocore_dynamodb import DynamoDBClient
    from types_aiobotocore_dynamodb.type_defs import (
        CreateGlobalSecondaryIndexActionTypeDef,
        CreateTableInputTypeDef,
        KeySchemaElementTypeDef,
        ProjectionTypeDef,
        TableDescriptionTypeDef,
    )

#: Partition and sort key of each index. `moment` and `seen` are the time of receipt and the request id; `state` is the
#: status and one of a few shards, so that no key gets the writes of all cameras. Items without the attributes are not
#: in the index: requests have no `seen`, faces no `moment`, and of unknown faces there is no `person`.
INDEXES: Mapping[str, tuple[str, str]] = {
    "by_state": ("state", "moment"),
    "by_camera": ("camera", "moment"),
    "by_person": ("person", "seen"),
}
#: The index that other readers ask has the whole face; we read the request itself behind every entry.
WHOLE = "by_person"

_KEYS = ("pk", "sk")
_POLL_SECONDS = 1
_POLLS = 120


def indexes_of(table: str, *, results: str | None) -> Mapping[str, tuple[str, str]]:
    """Return the indexes that a table has, `results` being the name of the one that holds results."""
    return INDEXES if table == results else {}


async def ensure_table(
    client: "DynamoDBClient", name: str, *, indexes: Mapping[str, tuple[str, str]] = INDEXES
) -> bool:
    """Make the table unless it is there, wait until it can be used, and return whether it was made.

    Its capacity is on demand, it is encrypted at rest as every table is. One of the version before gets the index that
    it lacks. StoreError where AWS does not let us, `unavailable` where an index takes longer than two minutes to build,
    and `wrong_table` where a table of that name is another's; further indexes do no harm.
    """
    with aws_errors_as(StoreError):
        made = await _create_unless_there(client, name, indexes)
        waiter = client.get_waiter("table_exists")
        await waiter.wait(TableName=name, WaiterConfig={"Delay": _POLL_SECONDS, "MaxAttempts": _POLLS})
        table = (await client.describe_table(TableName=name))["Table"]
        _check(name, indexes, table)
        there = {index["IndexName"] for index in table.get("GlobalSecondaryIndexes", ())}
        for index in [index for index in indexes if index not in there]:  # DynamoDB takes one at a time
            await _add_index(client, name, index, indexes[index])
        await _enable_ttl(client, name)
    return made


async def _create_unless_there(client: "DynamoDBClient", name: str, indexes: Mapping[str, tuple[str, str]]) -> bool:
    try:
        await client.describe_table(TableName=name)
    except AWS_ERRORS as error:
        if error_code(error) != "ResourceNotFound":
            raise
    else:
        return False
    try:
        await client.create_table(**_new_table(name, indexes))
    except AWS_ERRORS as error:
        if error_code(error) != "ResourceInUse":  # another process has just made it
            raise
        return False
    return True


def _new_table(name: str, indexes: Mapping[str, tuple[str, str]]) -> "CreateTableInputTypeDef":
    """Return the request for a table; DynamoDB takes neither an empty list of indexes nor attributes without a use."""
    keys = sorted({*_KEYS, *(attribute for keys in indexes.values() for attribute in keys)})
    request: CreateTableInputTypeDef = {
        "TableName": name,
        "KeySchema": _key_schema(_KEYS),
        "AttributeDefinitions": [{"AttributeName": attribute, "AttributeType": "S"} for attribute in keys],
        "BillingMode": "PAY_PER_REQUEST",
    }
    if indexes:
        request["GlobalSecondaryIndexes"] = [{**_index(index, keys)} for index, keys in indexes.items()]
    return request


def _key_schema(keys: tuple[str, str]) -> "list[KeySchemaElementTypeDef]":
    return [{"AttributeName": keys[0], "KeyType": "HASH"}, {"AttributeName": keys[1], "KeyType": "RANGE"}]


def _index(name: str, keys: tuple[str, str]) -> "CreateGlobalSecondaryIndexActionTypeDef":
    projection: ProjectionTypeDef = {"ProjectionType": "ALL" if name == WHOLE else "KEYS_ONLY"}
    return {"IndexName": name, "KeySchema": _key_schema(keys), "Projection": projection}


def _check(name: str, indexes: Mapping[str, tuple[str, str]], table: "TableDescriptionTypeDef") -> None:
    """Raise StoreError where keys differ; a table with none of our indexes is not one of results."""
    there = {index["IndexName"]: index["KeySchema"] for index in table.get("GlobalSecondaryIndexes", ())}
    ours = {index: _key_schema(keys) for index, keys in indexes.items() if index in there}
    differ = any(there[index] != schema for index, schema in ours.items())
    if table["KeySchema"] != _key_schema(_KEYS) or differ or (indexes and not ours):
        advice = "choose another name in FACEWIRE_TABLE or FACEWIRE_GALLERY_TABLE"
        raise StoreError("wrong_table", f"the table {name!r} has other keys or indexes than Facewire's: {advice}")


async def _add_index(client: "DynamoDBClient", name: str, index: str, keys: tuple[str, str]) -> None:
    await client.update_table(
        TableName=name,
        AttributeDefinitions=[{"AttributeName": attribute, "AttributeType": "S"} for attribute in keys],
        GlobalSecondaryIndexUpdates=[{"Create": _index(index, keys)}],
    )
    for _ in range(_POLLS):
        table = (await client.describe_table(TableName=name))["Table"]
        if all(found.get("IndexStatus") == "ACTIVE" for found in table.get("GlobalSecondaryIndexes", ())):
            return
        await asyncio.sleep(_POLL_SECONDS)
    raise StoreError("unavailable", f"the table {name!r} is still building its index {index!r}: run this again later")


async def _enable_ttl(client: "DynamoDBClient", name: str) -> None:
    if await _has_ttl(client, name):
        return
    try:
        await client.update_time_to_live(
            TableName=name, TimeToLiveSpecification={"Enabled": True, "AttributeName": TTL}
        )
    except AWS_ERRORS:
        if not await _has_ttl(client, name):  # another process has just enabled it
            raise


async def _has_ttl(client: "DynamoDBClient", name: str) -> bool:
    description = (await client.describe_time_to_live(TableName=name))["TimeToLiveDescription"]
    return description.get("TimeToLiveStatus") in {"ENABLING", "ENABLED"} and description.get("AttributeName") == TTL
