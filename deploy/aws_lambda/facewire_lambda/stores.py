"""The stores of results and of the gallery, each in the table that the functions are given for it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from facewire.adapters.aws.clients import dynamodb_client
from facewire.adapters.aws.dynamodb.gallery import DynamoDbGalleryStore
from facewire.adapters.aws.dynamodb.results import DynamoDbResultStore
from facewire.adapters.aws.dynamodb.schema import indexes_of
from facewire.adapters.aws.dynamodb.table import Table
from facewire.domain.ports import GalleryStore, ResultStore
from facewire_lambda.settings import LambdaSettings


@asynccontextmanager
async def open_results(settings: LambdaSettings) -> AsyncIterator[ResultStore]:
    """Yield the results; SettingsError without a table. DynamoDB deletes them after `results_days`."""
    name = settings.required_table()
    async with dynamodb_client(settings) as client:
        yield DynamoDbResultStore(
            Table(client, name, create_missing=settings.aws_create_missing),
            id_window_seconds=settings.id_window_seconds,
            kept_days=settings.results_days,
        )


@asynccontextmanager
async def open_gallery_if_any(settings: LambdaSettings) -> AsyncIterator[GalleryStore | None]:
    """Yield the gallery, or None where no table is set."""
    name = settings.table_of_gallery
    if name is None:
        yield None
        return
    indexes = indexes_of(name, results=settings.table)
    async with dynamodb_client(settings) as client:
        yield DynamoDbGalleryStore(Table(client, name, create_missing=settings.aws_create_missing, indexes=indexes))
