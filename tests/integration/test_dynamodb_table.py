"""The table in DynamoDB: made once, made again where it has gone, and what is said where that cannot be."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from aws_emulator import free_port
from dynamodb_tables import RawTable, dynamodb_settings, raw_table
from facewire.adapters.aws.clients import dynamodb_client
from facewire.adapters.aws.dynamodb.gallery import DynamoDbGalleryStore
from facewire.adapters.aws.dynamodb.results import DynamoDbResultStore
from facewire.adapters.aws.dynamodb.schema import INDEXES, ensure_table, indexes_of
from facewire.adapters.sqlite.gallery import SqliteGalleryStore
from facewire.adapters.sqlite.results import SqliteResultStore
from facewire.adapters.stores import open_stores
from facewire.domain.errors import StoreError
from facewire.domain.messages import Frame, RecognizedFaces
from facewire.domain.ports import EnrolledFace, ResultQuery
from facewire.runtime.settings import StoreSettings

FRAME = Frame.of(b"picture", request_id="r1", camera="door")
FACE = EnrolledFace("face 1", "Ada", "colour", b"vector", datetime(2026, 11, 22, tzinfo=UTC), None)
ANSWER = RecognizedFaces(request_id="r1", result="No-Face", content_sha256=FRAME.content_sha256)


async def test_the_table_is_made_once_on_demand_with_its_ttl(aws_environment: str) -> None:
    settings = dynamodb_settings(aws_environment)
    async with dynamodb_client(settings) as client:
        assert sorted(await asyncio.gather(*(ensure_table(client, settings.table) for _ in range(3)))).count(True) == 1
        assert await ensure_table(client, settings.table) is False
        table = (await client.describe_table(TableName=settings.table))["Table"]
        assert table["BillingModeSummary"]["BillingMode"] == "PAY_PER_REQUEST"
        assert {index["IndexName"] for index in table["GlobalSecondaryIndexes"]} == set(INDEXES)
        ttl = (await client.describe_time_to_live(TableName=settings.table))["TimeToLiveDescription"]
        assert ttl == {"TimeToLiveStatus": "ENABLED", "AttributeName": "expires_at"}


async def test_a_table_of_somebody_elses_is_left_alone(aws_environment: str) -> None:
    settings = dynamodb_settings(aws_environment)
    async with dynamodb_client(settings) as client:
        await client.create_table(
            TableName=settings.table,
            KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
            AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
            BillingMode="PAY_PER_REQUEST",
        )
        with pytest.raises(StoreError, match=r"wrong_table.*FACEWIRE_TABLE"):
            await ensure_table(client, settings.table)


async def test_a_table_of_the_version_before_gets_the_index_that_it_lacks(aws_environment: str) -> None:
    settings = dynamodb_settings(aws_environment)
    before = {"by_day": ("day", "moment"), "by_camera": ("camera", "moment"), "by_state": ("state", "moment")}
    async with dynamodb_client(settings) as client, open_stores(settings) as (results, _):
        await ensure_table(client, settings.table, indexes=before)
        with pytest.raises(StoreError, match=r"wrong_table.*facewire aws init"):
            await results.page(ResultQuery(person="Ada"))
        assert await ensure_table(client, settings.table) is False
        table = (await client.describe_table(TableName=settings.table))["Table"]
        assert {index["IndexName"] for index in table["GlobalSecondaryIndexes"]} == {*INDEXES, "by_day"}
        await results.keep([ANSWER])
        assert (await results.page(ResultQuery(person="Ada"))).results == []
        assert len((await results.page(ResultQuery())).results) == 1


async def test_a_missing_table_is_named_with_what_makes_it(aws_environment: str) -> None:
    async with open_stores(dynamodb_settings(aws_environment)) as (results, gallery):
        for work in (results.get("r1"), results.expect(FRAME), gallery.version(), results.page(ResultQuery())):
            with pytest.raises(StoreError, match=r"no_such_table.*facewire aws init"):
                await work


async def test_a_table_that_has_gone_is_made_again_by_all_who_miss_it(aws_environment: str) -> None:
    settings = dynamodb_settings(aws_environment, create_missing=True)
    async with open_stores(settings) as (results, gallery):
        with capture_logs() as logs:
            await asyncio.gather(results.expect(FRAME), gallery.version(), results.page(ResultQuery()))
        assert {entry["log_level"] for entry in logs} == {"warning"}
        assert await results.keep([ANSWER]) == [ANSWER]


async def test_the_gallery_may_have_a_table_of_its_own(aws_environment: str) -> None:
    settings = with_gallery_table(dynamodb_settings(aws_environment, create_missing=True))
    async with open_stores(settings) as (results, gallery), dynamodb_client(settings) as client:
        await gallery.add([FACE])
        await results.keep([ANSWER])
        found = {
            name: {item["pk"]["S"] for item in (await client.scan(TableName=name))["Items"]}
            for name in (settings.table, settings.table_of_gallery)
        }
        made = (await client.describe_table(TableName=settings.table_of_gallery))["Table"]
    assert "r1" in found[settings.table]
    assert "#gallery" in found[settings.table_of_gallery]
    assert not any(key.startswith(("gallery#", "#gallery")) for key in found[settings.table])
    assert "r1" not in found[settings.table_of_gallery]
    assert not made.get("GlobalSecondaryIndexes")


async def test_a_table_of_the_gallery_alone_is_none_for_results(aws_environment: str) -> None:
    settings = dynamodb_settings(aws_environment)
    async with dynamodb_client(settings) as client:
        assert await ensure_table(client, settings.table, indexes=indexes_of(settings.table, results="another"))
        with pytest.raises(StoreError, match=r"wrong_table.*FACEWIRE_GALLERY_TABLE"):
            await ensure_table(client, settings.table)


def with_gallery_table(settings: StoreSettings) -> StoreSettings:
    return settings.model_copy(update={"gallery_table": f"{settings.table}-people"})


async def test_an_endpoint_out_of_reach_is_named(aws_environment: str) -> None:
    assert aws_environment  # for the credentials
    settings = dynamodb_settings(f"http://127.0.0.1:{free_port()}")
    async with open_stores(settings) as (results, gallery):
        works = (results.get("r1"), results.expect(FRAME), results.keep([ANSWER]), gallery.version(), gallery.faces())
        outcomes = await asyncio.gather(*works, return_exceptions=True)
        assert [getattr(outcome, "code", outcome) for outcome in outcomes] == ["unreachable"] * len(works)
        assert all(isinstance(outcome, StoreError) for outcome in outcomes)


async def test_what_the_settings_name_is_opened(aws_environment: str, tmp_path: Path) -> None:
    async with raw_table(aws_environment) as raw:
        await _opens(raw)
    async with open_stores(StoreSettings(data_dir=tmp_path)) as (results, gallery):
        assert isinstance(results, SqliteResultStore)
        assert isinstance(gallery, SqliteGalleryStore)
    assert (tmp_path / "facewire.db").exists()


async def _opens(raw: RawTable) -> None:
    async with open_stores(raw.settings, id_window_seconds=1, kept_days=1) as (results, gallery):
        assert isinstance(results, DynamoDbResultStore)
        assert isinstance(gallery, DynamoDbGalleryStore)
        await results.keep([ANSWER])
    assert await raw.item("r1", "frame")
