"""The table of results and gallery in DynamoDB, or of either: its keys, its indexes and its TTL.

Every item has a partition key `pk` and a sort key `sk`:

| pk | sk | holds |
|---|---|---|
| the request id | `frame` | a request, its answer or its tombstone |
| `person#<hash>` | moment, request id, token | that the answer recognises the person |
| `mention#<hash>` | moment, request id, token | that the answer names the person otherwise |
| `#days` | `2026-11-22` | that there are results of this day |
| `#forgotten` | hash of a person | the gallery's version from which the person is no longer in it |
| `#deleted` | hash of a person, or id of a face | when that was deleted: what was asked for before stays out |
| `#gallery` | `version` | the number of the gallery's latest change |
| `#changes` | number of a change | the ids of the faces it was about, for an hour |
| `gallery#<shard>` | `face#…`, `vector#…`, `crop#…` | an enrolled face, one of its embeddings, its crop |

A request id never holds `#`, every other partition key does, so that no sender can write among what is not a request.
A hash is the SHA-256 of the name, so that no key tells whom it is about. The indexes are sparse: what has no camera, is
done, or has expired is not in `by_camera`, `by_state`, `by_day`. A table of the gallery alone has no indexes.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from facewire.adapters.aws.errors import AWS_ERRORS, aws_errors_as, error_code
from facewire.domain.errors import StoreError

if TYPE_CHECKING:
    from types_aiobotocore_dynamodb import DynamoDBClient
    from types_aiobotocore_dynamodb.type_defs import (
        CreateTableInputTypeDef,
        GlobalSecondaryIndexUnionTypeDef,
        KeySchemaElementTypeDef,
        TableDescriptionTypeDef,
    )

#: Seconds since 1970 after which DynamoDB deletes an item; it takes up to a few days to do so.
TTL = "expires_at"
#: Sparse indexes, each over an attribute and `moment`: ISO time of receipt and request id.
INDEXES = {"by_day": "day", "by_camera": "camera", "by_state": "state"}

#: Partitions that hold one kind of item each, beside those of requests, people and faces.
DAYS, FORGOTTEN, DELETED, GALLERY, CHANGES = "#days", "#forgotten", "#deleted", "#gallery", "#changes"

_KEYS = ("pk", "sk")
_POLL_SECONDS = 1
_POLLS = 120


def indexes_of(table: str, *, results: str | None) -> Mapping[str, str]:
    """Return the indexes that a table has, `results` being the name of the one that holds results."""
    return INDEXES if table == results else {}


async def ensure_table(client: "DynamoDBClient", name: str, *, indexes: Mapping[str, str] = INDEXES) -> bool:
    """Make the table unless it is there, wait until it can be used, and return whether it was made.

    Its capacity is on demand, it is encrypted at rest as every table is. StoreError where AWS does not let us, and
    `wrong_table` where a table of that name is another's; further indexes do no harm.
    """
    with aws_errors_as(StoreError):
        made = await _create_unless_there(client, name, indexes)
        waiter = client.get_waiter("table_exists")
        await waiter.wait(TableName=name, WaiterConfig={"Delay": _POLL_SECONDS, "MaxAttempts": _POLLS})
        _check(name, indexes, (await client.describe_table(TableName=name))["Table"])
        await _enable_ttl(client, name)
    return made


async def _create_unless_there(client: "DynamoDBClient", name: str, indexes: Mapping[str, str]) -> bool:
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
        if error_code(error) != "ResourceInUse":  # somebody else has just made it
            raise
        return False
    return True


def _new_table(name: str, indexes: Mapping[str, str]) -> "CreateTableInputTypeDef":
    """Return the request for a table; DynamoDB takes neither an empty list of indexes nor attributes without a use."""
    keys = (*_KEYS, "moment", *indexes.values()) if indexes else _KEYS
    request: CreateTableInputTypeDef = {
        "TableName": name,
        "KeySchema": _key_schema(*_KEYS),
        "AttributeDefinitions": [{"AttributeName": attribute, "AttributeType": "S"} for attribute in keys],
        "BillingMode": "PAY_PER_REQUEST",
    }
    if indexes:
        request["GlobalSecondaryIndexes"] = [_index(index, attribute) for index, attribute in indexes.items()]
    return request


def _key_schema(partition: str, sort: str) -> "list[KeySchemaElementTypeDef]":
    return [{"AttributeName": partition, "KeyType": "HASH"}, {"AttributeName": sort, "KeyType": "RANGE"}]


def _index(name: str, attribute: str) -> "GlobalSecondaryIndexUnionTypeDef":
    schema = _key_schema(attribute, "moment")
    return {"IndexName": name, "KeySchema": schema, "Projection": {"ProjectionType": "KEYS_ONLY"}}


def _check(name: str, indexes: Mapping[str, str], table: "TableDescriptionTypeDef") -> None:
    there = {index["IndexName"]: index["KeySchema"] for index in table.get("GlobalSecondaryIndexes", ())}
    wanted = {index: _key_schema(attribute, "moment") for index, attribute in indexes.items()}
    if table["KeySchema"] != _key_schema(*_KEYS) or any(there.get(index) != wanted[index] for index in wanted):
        advice = "choose another name in FACEWIRE_TABLE or FACEWIRE_GALLERY_TABLE"
        raise StoreError("wrong_table", f"the table {name!r} has other keys or indexes than Facewire's: {advice}")


async def _enable_ttl(client: "DynamoDBClient", name: str) -> None:
    if await _has_ttl(client, name):
        return
    try:
        await client.update_time_to_live(
            TableName=name, TimeToLiveSpecification={"Enabled": True, "AttributeName": TTL}
        )
    except AWS_ERRORS:
        if not await _has_ttl(client, name):  # nobody else has just enabled it
            raise


async def _has_ttl(client: "DynamoDBClient", name: str) -> bool:
    description = (await client.describe_time_to_live(TableName=name))["TimeToLiveDescription"]
    return description.get("TimeToLiveStatus") in {"ENABLING", "ENABLED"} and description.get("AttributeName") == TTL
