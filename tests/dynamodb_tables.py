"""Tables of their own for tests of the stores in DynamoDB."""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from facewire.aws.clients import dynamodb_client
from facewire.settings import StoreSettings
from facewire.stores.dynamodb import Table, ensure_table


def dynamodb_settings(endpoint: str, *, create_missing: bool = False) -> StoreSettings:
    table = f"test-{secrets.token_hex(6)}"
    return StoreSettings(store="dynamodb", table=table, aws_endpoint_url=endpoint, aws_create_missing=create_missing)


@asynccontextmanager
async def dynamodb_table(endpoint: str) -> AsyncIterator[Table]:
    settings = dynamodb_settings(endpoint)
    async with dynamodb_client(settings) as client:
        await ensure_table(client, settings.table)
        yield Table(client, settings.table)
        await client.delete_table(TableName=settings.table)
