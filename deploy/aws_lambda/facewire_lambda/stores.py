"""The stores of results and gallery, where the functions are given a table."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from facewire.aws.clients import dynamodb_client
from facewire.stores import GalleryStore, ResultStore
from facewire.stores.dynamodb import DynamoDbGalleryStore, DynamoDbResultStore, Table
from facewire_lambda.settings import LambdaSettings


@asynccontextmanager
async def open_stores(settings: LambdaSettings) -> AsyncIterator[tuple[ResultStore, GalleryStore]]:
    """Yield the stores in the table; SettingsError without one. DynamoDB deletes results after `results_days`."""
    name = settings.required_table()
    async with dynamodb_client(settings) as client:
        table = Table(client, name, create_missing=settings.aws_create_missing)
        results = DynamoDbResultStore(
            table, id_window_seconds=settings.id_window_seconds, kept_days=settings.results_days
        )
        yield results, DynamoDbGalleryStore(table)


@asynccontextmanager
async def open_stores_if_any(settings: LambdaSettings) -> AsyncIterator[tuple[ResultStore | None, GalleryStore | None]]:
    """Yield the stores, or None twice where no table is set."""
    if settings.table is None:
        yield None, None
        return
    async with open_stores(settings) as stores:
        yield stores
