"""What the gallery in DynamoDB does beyond the contract: writers that race, many faces, nothing left of the deleted."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from botocore.exceptions import ClientError  # type: ignore[import-untyped]

from dynamodb_tables import RawTable, raw_table
from facewire.adapters.aws.dynamodb.faces import DELETED
from facewire.adapters.aws.dynamodb.gallery import RECENT, VERSION, DynamoDbGalleryStore
from facewire.adapters.aws.dynamodb.items import Item, Write
from facewire.adapters.aws.dynamodb.schema import ensure_table
from facewire.adapters.aws.dynamodb.table import Table
from facewire.domain.errors import GalleryError
from facewire.domain.messages import FaceCrop, now
from facewire.domain.ports import EnrolledFace, PersonSummary
from facewire.work.gallery_sync import GallerySync
from pipeline_fakes import ColourEmbedder, eventually

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
CROP = FaceCrop(jpeg=b"\xff\xd8\xff jpeg", landmarks=None)


@pytest.fixture
async def raw(aws_environment: str) -> AsyncIterator[RawTable]:
    async with raw_table(aws_environment) as raw:
        yield raw


@pytest.fixture
def store(raw: RawTable) -> DynamoDbGalleryStore:
    return DynamoDbGalleryStore(raw.table)


def face(
    number: int, person: str = "Ada", *, embedding: bytes = b"vector", crop: FaceCrop | None = CROP
) -> EnrolledFace:
    return EnrolledFace(f"face {number}", person, "colour", embedding, NOON + timedelta(seconds=number), crop)


async def test_faces_enrolled_at_the_same_time_are_all_there_and_all_counted(raw: RawTable) -> None:
    stores = [DynamoDbGalleryStore(raw.table) for _ in range(6)]
    await asyncio.gather(*(store.add([face(number)]) for number, store in enumerate(stores)))
    version, faces = await stores[0].faces()
    assert version == len(stores)
    assert [found.face_id for found in faces] == [f"face {number}" for number in range(len(stores))]


async def test_one_face_enrolled_twice_at_the_same_time_is_there_once(raw: RawTable) -> None:
    stores = [DynamoDbGalleryStore(raw.table) for _ in range(4)]
    await asyncio.gather(*(store.add([face(1, embedding=bytes([n]))]) for n, store in enumerate(stores)))
    assert [found.face_id for found in (await stores[0].faces())[1]] == ["face 1"]
    assert await stores[0].version() == 1


async def test_a_face_cannot_become_anothers_while_both_enrol_it(raw: RawTable) -> None:
    stores = [DynamoDbGalleryStore(raw.table) for _ in range(4)]
    works = (store.add([face(1, f"person {n}")]) for n, store in enumerate(stores))
    outcomes = await asyncio.gather(*works, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes if outcome != 1] == [GalleryError] * 3
    assert len(await stores[0].people()) == 1


async def test_deleting_and_embedding_again_at_the_same_time_leaves_all_or_nothing(raw: RawTable) -> None:
    deleting, embedding = DynamoDbGalleryStore(raw.table), DynamoDbGalleryStore(raw.table)
    faces = [face(number) for number in range(20)]
    await deleting.add(faces)
    others = [replace(known, embedder="other") for known in faces]
    await asyncio.gather(deleting.delete_person("Ada"), *(embedding.add_embeddings([other]) for other in others))
    assert [item["pk"]["S"] for item in await raw.items(but=(DELETED,))] == [VERSION.pk]


class OvertakenTable(Table):
    """Lets `overtake` have its way between what a change has read and what it writes, once."""

    overtake: Callable[[], Awaitable[object]] | None = None

    async def write(self, writes: Sequence[Write]) -> bool:
        if self.overtake is not None and len(writes) > 1:
            overtake, self.overtake = self.overtake, None
            await overtake()
        return await super().write(writes)


@pytest.mark.parametrize("enrolled", [0, 3])
async def test_a_deletion_that_overtakes_an_enrolment_holds(
    raw: RawTable, store: DynamoDbGalleryStore, enrolled: int
) -> None:
    await store.add([face(number) for number in range(enrolled)])
    table = OvertakenTable(raw.client, raw.name)
    table.overtake = lambda: store.delete_person("Ada")
    asked = now() - timedelta(minutes=1)
    with pytest.raises(GalleryError, match="deleted"):
        await DynamoDbGalleryStore(table).add([replace(face(7), enrolled_at=asked)])
    assert await store.people() == []


async def test_a_deleted_person_leaves_only_the_version_and_a_guard(raw: RawTable, store: DynamoDbGalleryStore) -> None:
    faces = [face(number) for number in range(40)]
    await store.add(faces)
    await store.add([replace(known, embedder="other") for known in faces])
    assert await store.delete_person("Ada") == 40
    assert "Ada" not in str(await raw.items())
    (left,) = await raw.items(but=(DELETED,))
    assert left["version"] == {"N": str(await store.version())}
    assert len(left["recent"]["L"]) <= 2 * RECENT
    (guard,) = await raw.items(but=(VERSION.pk,))
    assert 0 < int(guard["expires_at"]["N"]) - time.time() <= 24 * 3600


async def test_a_recognizer_sees_a_new_face_within_two_seconds(raw: RawTable, store: DynamoDbGalleryStore) -> None:
    embedding = np.array([1, 0, 0], "<f4").tobytes()
    sync = GallerySync(DynamoDbGalleryStore(raw.table), ColourEmbedder())
    await sync.refresh()
    stop = asyncio.Event()
    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        tasks.create_task(sync.follow(stop, poll_seconds=1.0))
        version = await store.add([face(1, embedding=embedding)])
        added = time.monotonic()
        await eventually(lambda: sync.gallery.people == ("Ada",))
        assert time.monotonic() - added < 2
        assert sync.gallery.version == version
        stop.set()


async def test_faces_of_many_pages_and_transactions_come_back_whole(raw: RawTable, store: DynamoDbGalleryStore) -> None:
    crop = FaceCrop(jpeg=bytes(90_000), landmarks=None)
    faces = [face(number, embedding=bytes(10_000), crop=crop) for number in range(150)]
    await store.add(faces)
    page = await raw.client.query(
        TableName=raw.name,
        KeyConditionExpression="pk = :pk AND begins_with(sk, :kind)",
        ExpressionAttributeValues={":pk": {"S": "gallery#0"}, ":kind": {"S": "crop#"}},
    )
    assert "LastEvaluatedKey" in page  # a page of DynamoDB holds 1 MB
    assert (await store.faces())[1] == [replace(known, crop=None) for known in faces]
    assert await store.crops() == faces
    assert await store.delete_person("Ada") == 150


async def test_two_embeddings_of_a_face_can_come_together(store: DynamoDbGalleryStore) -> None:
    both = [face(1), replace(face(1), embedder="other", embedding=b"other")]
    await store.add(both)
    assert (await store.faces())[1] == [replace(known, crop=None) for known in both]


async def test_a_crop_that_does_not_fit_into_an_item_is_refused(store: DynamoDbGalleryStore) -> None:
    large = FaceCrop(jpeg=bytes(400_000), landmarks=None)
    with pytest.raises(GalleryError, match="crop_too_large"):
        await store.add([face(1, crop=large)])
    assert await store.faces() == (0, [])


class CountingTable(Table):
    """A table that counts the items which queries have read."""

    def __init__(self, raw: RawTable) -> None:
        super().__init__(raw.client, raw.name)
        self.read = 0

    async def query(self, condition: str, values: Item, **options: Any) -> AsyncIterator[list[Item]]:
        async for page in super().query(condition, values, **options):
            self.read += len(page)
            yield page


async def test_only_what_has_changed_is_loaded_again(raw: RawTable, store: DynamoDbGalleryStore) -> None:
    await store.add([face(number) for number in range(100)])
    table = CountingTable(raw)
    recognizer = DynamoDbGalleryStore(table)
    assert len((await recognizer.faces("colour"))[1]) == 100
    assert table.read == 100

    table.read = 0
    await store.add([face(200, "Grace"), replace(face(3), embedder="other")])
    await store.delete_face("Ada", "face 7")
    version, faces = await recognizer.faces("colour")
    assert version == await store.version()
    assert {found.face_id for found in faces} == {f"face {number}" for number in (*range(100), 200)} - {"face 7"}
    assert table.read == 0  # the ids stand beside the version
    assert (version, faces) == await DynamoDbGalleryStore(raw.table).faces("colour")

    table.read = 0
    assert await recognizer.faces("colour") == (version, faces)
    assert table.read == 0


async def test_who_is_far_behind_loads_all_faces(raw: RawTable, store: DynamoDbGalleryStore) -> None:
    await store.add([face(1)])
    table = CountingTable(raw)
    recognizer = DynamoDbGalleryStore(table)
    await recognizer.faces("colour")
    table.read = 0
    faces = [face(number) for number in range(1, 3 * RECENT)]
    await store.add(faces)
    assert (await recognizer.faces("colour"))[1] == [replace(known, crop=None) for known in faces]
    assert table.read == len(faces)


async def test_one_person_is_read_alone(store: DynamoDbGalleryStore) -> None:
    await store.add([face(2), face(1), face(3, "Grace")])
    assert await store.person("Ada") == PersonSummary("Ada", ("face 1", "face 2"), face(1).enrolled_at)
    assert await store.person("Joan") is None


class ConflictingClient:
    """Cancels a transaction on an item that another is changing, as DynamoDB does and the emulator does not."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._busy: set[tuple[str, str]] = set()
        self.conflicts = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    async def transact_write_items(self, **request: Any) -> Any:
        parts = [part for item in request["TransactItems"] for part in item.values()]
        targets = [part.get("Key") or part["Item"] for part in parts]
        keys = {(target["pk"]["S"], target["sk"]["S"]) for target in targets}
        if keys & self._busy:
            self.conflicts += 1
            reasons = [{"Code": "TransactionConflict"}]
            refusal = {"Error": {"Code": "TransactionCanceledException"}, "CancellationReasons": reasons}
            raise ClientError(refusal, "TransactWriteItems")
        self._busy |= keys
        try:
            return await self._client.transact_write_items(**request)
        finally:
            self._busy -= keys


@pytest.mark.timeout(240)
async def test_three_hundred_enrolments_at_once_all_succeed(raw: RawTable) -> None:
    client = ConflictingClient(raw.client)
    # The emulator may be slow: what is tried is that none gives up for conflicts alone.
    tables = [Table(client, raw.name, patience_seconds=200) for _ in range(300)]  # type: ignore[arg-type] # as a client
    stores = [DynamoDbGalleryStore(table) for table in tables]
    await asyncio.gather(*(store.add([face(number, f"p{number}")]) for number, store in enumerate(stores)))
    version, faces = await stores[0].faces("colour")
    assert version == len(faces) == 300
    assert client.conflicts > 0


async def test_a_table_made_anew_is_loaded_anew(raw: RawTable, store: DynamoDbGalleryStore) -> None:
    await store.add([face(1)])
    recognizer = DynamoDbGalleryStore(raw.table)
    await recognizer.faces("colour")
    await raw.client.delete_table(TableName=raw.name)
    await ensure_table(raw.client, raw.name)
    assert await recognizer.faces("colour") == (0, [])
    await recognizer.faces("colour")

    behind = DynamoDbGalleryStore(raw.table)
    await store.add([face(2)])
    await behind.faces("colour")
    await raw.client.delete_table(TableName=raw.name)
    await ensure_table(raw.client, raw.name)
    await store.add([face(3)])
    await store.add([face(4)])
    assert [found.face_id for found in (await behind.faces("colour"))[1]] == ["face 3", "face 4"]
