"""The stores that the settings name, opened for as long as a service runs."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from facewire.adapters.aws.clients import dynamodb_client
from facewire.adapters.aws.dynamodb.gallery import DynamoDbGalleryStore
from facewire.adapters.aws.dynamodb.results import DynamoDbResultStore
from facewire.adapters.aws.dynamodb.schema import indexes_of
from facewire.adapters.aws.dynamodb.table import Table
from facewire.adapters.data_folder import open_database
from facewire.adapters.sqlite.gallery import SqliteGalleryStore
from facewire.adapters.sqlite.results import SqliteResultStore
from facewire.domain.ports import GalleryStore, ResultStore
from facewire.runtime.settings import StoreSettings

if TYPE_CHECKING:
    from types_aiobotocore_dynamodb import DynamoDBClient


@asynccontextmanager
async def open_stores(
    settings: StoreSettings, *, id_window_seconds: float = 600.0, kept_days: float | None = None
) -> AsyncIterator[tuple[ResultStore, GalleryStore]]:
    """Yield the stores of results and of the gallery; SettingsError `data_dir` where the folder cannot be used.

    In DynamoDB they share a table unless the gallery has one of its own.

    `id_window_seconds` is how long a request id stands for one request, `kept_days` how long DynamoDB keeps results.
    """
    if settings.store == "sqlite":
        async with open_database(settings.data_dir / "facewire.db") as database:
            results = SqliteResultStore(database, id_window_seconds=id_window_seconds)
            yield results, SqliteGalleryStore(database)
        return
    async with dynamodb_client(settings) as client:
        table, gallery = (_table(client, settings, name) for name in (settings.table, settings.table_of_gallery))
        kept = DynamoDbResultStore(table, id_window_seconds=id_window_seconds, kept_days=kept_days)
        yield kept, DynamoDbGalleryStore(gallery)


def _table(client: "DynamoDBClient", settings: StoreSettings, name: str) -> Table:
    indexes = indexes_of(name, results=settings.table)
    return Table(client, name, create_missing=settings.aws_create_missing, indexes=indexes)
