"""Tables of their own for tests of the stores in DynamoDB."""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from facewire.adapters.aws.clients import dynamodb_client
from facewire.adapters.aws.dynamodb.schema import ensure_table
from facewire.adapters.aws.dynamodb.table import Table
from facewire.runtime.settings import StoreSettings

if TYPE_CHECKING:
    from types_aiobotocore_dynamodb import DynamoDBClient


@dataclass
class RawTable:
    """A table as DynamoDB shows it: what a store leaves there, and how it looks from the side."""

    client: "DynamoDBClient"
    settings: StoreSettings

    @property
    def name(self) -> str:
        return self.settings.table

    @property
    def table(self) -> Table:
        return Table(self.client, self.name)

    async def items(self, *, but: tuple[str, ...] = ()) -> list[dict[str, Any]]:
        """Return every item but those of some partitions."""
        pages = self.client.get_paginator("scan").paginate(TableName=self.name, ConsistentRead=True)
        items = [item async for page in pages for item in page["Items"]]
        return [item for item in items if item["pk"]["S"] not in but]

    async def item(self, pk: str, sk: str) -> dict[str, Any]:
        key = {"pk": {"S": pk}, "sk": {"S": sk}}
        return (await self.client.get_item(TableName=self.name, Key=key))["Item"]


def dynamodb_settings(endpoint: str, *, create_missing: bool = False) -> StoreSettings:
    table = f"test-{secrets.token_hex(6)}"
    return StoreSettings(store="dynamodb", table=table, aws_endpoint_url=endpoint, aws_create_missing=create_missing)


@asynccontextmanager
async def raw_table(endpoint: str) -> AsyncIterator[RawTable]:
    settings = dynamodb_settings(endpoint)
    async with dynamodb_client(settings) as client:
        await ensure_table(client, settings.table)
        yield RawTable(client, settings)
        await client.delete_table(TableName=settings.table)


@asynccontextmanager
async def dynamodb_table(endpoint: str) -> AsyncIterator[Table]:
    async with raw_table(endpoint) as raw:
        yield raw.table
