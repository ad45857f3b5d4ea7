"""What the result store in DynamoDB does beyond the contract: writers that race, what stays there, its limits."""

import asyncio
import base64
import json
import secrets
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from dynamodb_tables import RawTable, raw_table
from facewire.adapters.aws.dynamodb.gallery import DynamoDbGalleryStore
from facewire.adapters.aws.dynamodb.history import History
from facewire.adapters.aws.dynamodb.items import item_of
from facewire.adapters.aws.dynamodb.results import FORGOTTEN, FORGOTTEN_TOKEN, DynamoDbResultStore
from facewire.adapters.aws.dynamodb.rows import Row
from facewire.adapters.aws.dynamodb.table import Table
from facewire.domain.messages import (
    FAILED,
    MAX_FACES,
    UNKNOWN,
    FaceQuality,
    Frame,
    RecognizedFace,
    RecognizedFaces,
    RunnerUp,
    Source,
    now,
)
from facewire.domain.names import MAX_PERSON
from facewire.domain.ports import EnrolledFace, ResultQuery

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
KEPT_DAYS = 30_000
#: Partitions that hold no results: the guards against names of the forgotten, and their token.
BESIDES = (FORGOTTEN, FORGOTTEN_TOKEN.pk)


@pytest.fixture
async def raw(aws_environment: str) -> AsyncIterator[RawTable]:
    async with raw_table(aws_environment) as raw:
        yield raw


@pytest.fixture
def store(raw: RawTable) -> DynamoDbResultStore:
    return DynamoDbResultStore(raw.table, kept_days=KEPT_DAYS)


def frame(request_id: str = "r1", *, after: timedelta = timedelta()) -> Frame:
    return Frame.of(b"picture", request_id=request_id, camera="door", received_at=NOON + after)


def face(person: str | None, **fields: object) -> RecognizedFace:
    told = {"index": 0, "person": person, "known": True, "similarity": 0.9, "box": (1, 2, 3, 4), "confidence": 1.0}
    return RecognizedFace.model_validate({**told, "landmarks": None, **fields})


GUESSED = {
    "emotions": {"happy": 0.9, **dict.fromkeys(("neutral", "sad", "angry", "fearful", "disgusted", "surprised"), 0.01)},
    "age": 30.0,
    "gender": "female",
    "gender_confidence": 0.8,
}


def done(request: Frame, *people: str, source: Source = "cloud", gallery_version: int | None = 1) -> RecognizedFaces:
    return RecognizedFaces(
        request_id=request.request_id,
        camera=request.camera,
        received_at=request.received_at,
        content_sha256=request.content_sha256,
        result=people[0] if people else UNKNOWN,
        source=source,
        gallery_version=gallery_version,
        faces=tuple(face(person) for person in people),
    )


@pytest.mark.parametrize("expected", [True, False])
async def test_of_writers_that_race_one_wins_and_the_best_stays(raw: RawTable, *, expected: bool) -> None:
    stores = [DynamoDbResultStore(raw.table) for _ in range(4)]
    request = frame()
    if expected:
        await stores[0].expect(request)
    rivals = [done(request, f"person {number}") for number in range(4)]
    edge = [done(request, f"edge {number}", source="edge") for number in range(4)]
    kept = await asyncio.gather(
        *(store.keep([answer]) for store, answer in zip(stores, rivals, strict=True)),
        *(store.keep([answer]) for store, answer in zip(stores, edge, strict=True)),
        *(store.expect(request) for store in stores),
    )
    winners = [answer for answers in kept if answers for answer in answers if answer.source == "cloud"]
    assert len(winners) == 1
    result = await stores[0].get("r1")
    assert result is not None
    assert result.answer == winners[0]
    for person in [answer.result for answer in (*rivals, *edge)]:
        page = await stores[0].page(ResultQuery(person=person))
        assert [found.answer for found in page.results] == [winners[0]] * (person == winners[0].result)


async def test_the_losers_of_a_race_leave_nothing_behind(raw: RawTable) -> None:
    stores = [DynamoDbResultStore(raw.table) for _ in range(4)]
    await asyncio.gather(*(store.keep([done(frame(), f"person {n}")]) for n, store in enumerate(stores)))
    assert len(await raw.items(but=BESIDES)) == 2  # the answer and its face


async def test_no_name_outlives_a_person_deleted_while_answers_come_in(raw: RawTable) -> None:
    stores = [DynamoDbResultStore(raw.table) for _ in range(3)]
    answers = [done(frame(f"r{number}"), "Ada", "Grace") for number in range(60)]
    keeping = [stores[n % 2].keep([answer]) for n, answer in enumerate(answers)]
    middle = len(keeping) // 2
    await asyncio.gather(*keeping[:middle], stores[2].forget_person("Ada", gallery_version=2), *keeping[middle:])

    page = await stores[0].page(ResultQuery(limit=100))
    assert len(page.results) == len(answers)
    assert not any(b"Ada" in found.answer.to_bytes() for found in page.results if found.answer)
    assert (await stores[0].page(ResultQuery(person="Ada"))).results == []
    assert len((await stores[0].page(ResultQuery(person="Grace", limit=100))).results) == len(answers)


async def test_a_redelivered_answer_loses_the_name_that_a_crashed_writer_left(raw: RawTable) -> None:
    """The writer read that nobody is forgotten, wrote the answer, and ended before it looked again."""
    store = DynamoDbResultStore(raw.table)
    answer = done(frame(), "Ada")
    await store.forget_person("Ada", gallery_version=2)
    await raw.table.write(Row.answered(answer).writes(None, None))
    assert await store.keep([answer]) == []
    result = await store.get("r1")
    assert result is not None
    assert result.answer is not None
    assert b"Ada" not in result.answer.to_bytes()


async def test_what_an_index_still_shows_of_before_is_no_result(raw: RawTable, store: DynamoDbResultStore) -> None:
    await store.expect(frame())
    await store.expect(frame(after=timedelta(hours=1)))
    row = await raw.item("r1", "frame")
    moment = {"S": row["moment"]["S"].replace("13:00", "12:00")}
    stale = {**row, "pk": {"S": "stale"}, "moment": moment}
    await raw.client.put_item(TableName=raw.name, Item=stale)  # leads to r1, as an entry that lags does
    assert [result.received_at for result in (await store.page(ResultQuery())).results] == [NOON + timedelta(hours=1)]


async def test_each_face_is_an_item_that_other_readers_find_by_person(
    raw: RawTable, store: DynamoDbResultStore
) -> None:
    faces = (face("Ada", attributes=GUESSED), face("Grace", index=1), face(None, index=2, known=False))
    await store.keep([done(frame()).model_copy(update={"faces": faces})])
    found = await raw.client.query(
        TableName=raw.name,
        IndexName="by_person",
        KeyConditionExpression="person = :person AND seen BETWEEN :since AND :until",
        ExpressionAttributeValues={
            ":person": {"S": "Ada"},
            ":since": {"S": "2026-11-22T11"},
            ":until": {"S": "2026-11-22T13"},
        },
    )
    (item,) = map(item_of, found["Items"])
    assert item["image_id"] == "r1"
    assert item["timestamp"] == "2026-11-22T12:00:00.000Z"
    assert item["bounding_box"] == {"x1": 1, "y1": 2, "x2": 3, "y2": 4}
    assert (item["person"], item["similarity"], item["confidence"], item["camera"]) == ("Ada", 0.9, 1.0, "door")
    assert item["emotions"]["happy"] == 0.9
    assert len(item["face_id"]) == 36
    unknown = item_of(await raw.item("r1", "face#2"))
    assert not {"person", "emotions"} & unknown.keys()


async def test_a_better_answer_with_fewer_faces_leaves_no_face_of_the_other(
    raw: RawTable, store: DynamoDbResultStore
) -> None:
    await store.keep([done(frame(), "Ada", "Grace", "Joan", source="edge")])
    await store.keep([done(frame(), "Ada")])
    assert sorted(item["sk"]["S"] for item in await raw.items()) == ["face#0", "frame"]
    await store.expect(frame(after=timedelta(days=1)))
    assert [item["sk"]["S"] for item in await raw.items()] == ["frame"]


async def test_an_answer_with_one_face_takes_few_write_units(raw: RawTable) -> None:
    meter = Meter(raw.client)
    store = DynamoDbResultStore(Table(meter, raw.name), kept_days=KEPT_DAYS)  # type: ignore[arg-type] # as a client
    await store.keep([done(frame(), "Ada")])
    assert meter.units == 7  # two items twice, as in any transaction, and three indexes
    await store.expect(frame("r2"))
    assert meter.units == 7 + 3


async def test_guards_are_read_again_only_after_a_change(raw: RawTable) -> None:
    meter = Meter(raw.client)
    store = DynamoDbResultStore(Table(meter, raw.name))  # type: ignore[arg-type] # as a client
    for number in range(3):
        await store.keep([done(frame(f"r{number}"), "Ada")])
    assert meter.queries == 1
    await DynamoDbResultStore(raw.table).forget_person("Ada", gallery_version=2)
    (kept,) = await store.keep([done(frame("r4"), "Ada")])
    assert kept.result == UNKNOWN
    assert meter.queries == 2


async def test_every_item_expires_with_its_result(raw: RawTable, store: DynamoDbResultStore) -> None:
    await store.keep([done(frame(), "Ada")])
    await store.expect(frame("r2"))
    expected = (NOON + timedelta(days=KEPT_DAYS)).timestamp()
    assert {int(item["expires_at"]["N"]) for item in await raw.items()} == {int(expected)}


async def test_the_requests_of_one_status_are_spread_over_keys(raw: RawTable, store: DynamoDbResultStore) -> None:
    sent = [frame(f"r{number}", after=timedelta(seconds=number)) for number in range(40)]
    await store.keep([done(request) for request in sent])
    assert {item["state"]["S"] for item in await raw.items()} == {f"done#{shard}" for shard in range(4)}
    got: list[str] = []
    cursor: str | None = None
    for _ in range(20):
        page = await store.page(ResultQuery(limit=7, cursor=cursor))
        got += [result.request_id for result in page.results]
        if (cursor := page.cursor) is None:
            break
    assert got == [request.request_id for request in reversed(sent)]


async def test_a_table_of_the_version_before_goes_on_working(raw: RawTable) -> None:
    for item in old_items():
        await raw.client.put_item(TableName=raw.name, Item=item)
    store, gallery = DynamoDbResultStore(raw.table, kept_days=KEPT_DAYS), DynamoDbGalleryStore(raw.table)

    statuses = [
        found and found.status for found in [await store.get(name) for name in ("answered", "pending", "expired")]
    ]
    assert statuses == ["done", "pending", "expired"]
    assert [found.request_id for found in await store.overdue(NOON + timedelta(days=1), 10)] == ["pending"]
    page = await store.page(ResultQuery(camera="door"))
    assert {found.request_id for found in page.results} == {"answered", "pending"}
    answer = done(Frame.of(b"picture", request_id="pending", camera="door", received_at=NOON), "Ada")
    assert await store.keep([answer]) == [answer]
    assert await store.forget_person("Grace", gallery_version=9) == 1
    assert await store.forget_person("Ada", gallery_version=9) == 2

    version, faces = await gallery.faces("colour")
    assert [(known.face_id, known.person) for known in faces] == [("face 1", "Ada"), ("face 2", "Grace")]
    assert len(await gallery.crops()) == 2
    new = EnrolledFace("face 9", "Joan", "colour", b"vector", now(), None)
    assert await gallery.add([new]) == version + 1
    assert new in (await gallery.faces("colour"))[1]
    assert await gallery.delete_person("Ada") == 1


def old_items() -> list[dict[str, Any]]:
    """Return a table of version 0.1 as it left it, with time to live."""

    def decoded(value: dict[str, Any]) -> Any:
        return base64.b64decode(value["base64"]) if value.keys() == {"base64"} else value

    text = (Path(__file__).parents[1] / "dynamodb_table_0_1.json").read_text()
    items: list[dict[str, Any]] = json.loads(text, object_hook=decoded)
    lives = {"expires_at": {"N": str(int(time.time()) + 86_400)}}
    return [{**item, **(lives if "expires_at" in item else {})} for item in items]


class Meter:
    """Counts the write units that DynamoDB charges, and the queries."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.units = 0.0
        self.queries = 0

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._client, name)
        if name not in {"put_item", "update_item", "delete_item", "transact_write_items"}:
            self.queries += name == "query"
            return call

        async def metered(**request: Any) -> Any:
            answer = await call(**request, ReturnConsumedCapacity="INDEXES")
            charged = answer["ConsumedCapacity"]
            self.units += sum(part["CapacityUnits"] for part in (charged if isinstance(charged, list) else [charged]))
            return answer

        return metered


async def test_moments_at_the_end_of_the_calendar_are_compared_with(store: DynamoDbResultStore) -> None:
    await store.keep([done(frame())])
    first = datetime(1, 1, 1, tzinfo=UTC).replace(tzinfo=NOON.astimezone().tzinfo)
    eastern = datetime.fromisoformat("0001-01-01T00:00:00+14:00")
    western = datetime.fromisoformat("9999-12-31T23:59:59-12:00")
    assert len((await store.page(ResultQuery(since=eastern, until=western))).results) == 1
    assert (await store.page(ResultQuery(until=first))).results == []


async def test_a_page_of_which_little_fits_ends_early_with_a_cursor(raw: RawTable, store: DynamoDbResultStore) -> None:
    sent = [frame(f"r{number}", after=timedelta(seconds=number)) for number in range(250)]
    failed = [done(request).model_copy(update={"status": "failed", "result": FAILED}) for request in sent]
    await store.keep([failed[0].model_copy(update={"camera": "gate"}), *failed[1:]])
    history = History(raw.table, lambda: None, examined=100)
    cursor: str | None = None
    pages = []
    for _ in range(4):
        page = await history.page(ResultQuery(camera="gate", status="failed", cursor=cursor))
        pages.append([found.request_id for found in page.results])
        cursor = page.cursor
        if cursor is None:
            break
    assert pages[0] == []
    assert [request_id for page_ids in pages for request_id in page_ids] == ["r0"]


async def test_an_answer_with_32_faces_fits_many_times(raw: RawTable, store: DynamoDbResultStore) -> None:
    names = ["".join(chr(0x1F600 + secrets.randbelow(64)) for _ in range(MAX_PERSON)) for _ in range(3 * MAX_FACES)]
    quality = FaceQuality(size=141.123, sharpness=0.456, brightness=0.789, yaw=1.234, pitch=5.678, roll=9.012)
    points = tuple((number * 100.12345, number * 50.54321) for number in range(5))
    faces = tuple(
        face(
            names[3 * number],
            runner_up=RunnerUp(person=names[3 * number + 1], similarity=0.123456),
            nearest=RunnerUp(person=names[3 * number + 2], similarity=0.654321),
            quality=quality,
            landmarks=points,
        )
        for number in range(MAX_FACES)
    )
    answer = done(frame()).model_copy(update={"faces": faces})
    assert await store.keep([answer]) == [answer]
    item = await raw.item("r1", "frame")
    assert len(item["answer"]["B"]) < 40_000
    assert len(await raw.items(but=BESIDES)) == 1 + MAX_FACES
    assert await store.forget_person(names[0], gallery_version=1) == 1


async def test_an_answer_that_does_not_fit_into_an_item_fails(store: DynamoDbResultStore) -> None:
    answer = done(frame()).model_copy(update={"filename": secrets.token_hex(500_000)})
    (kept,) = await store.keep([answer])
    assert (kept.status, kept.result) == ("failed", FAILED)
    assert kept.error is not None
    assert (kept.error.stage, kept.error.code) == ("store", "answer_too_large")
    result = await store.get("r1")
    assert result is not None
    assert result.answer == kept


async def test_a_camera_that_no_index_takes_is_kept_in_the_answer_alone(store: DynamoDbResultStore) -> None:
    strange = [done(frame(f"r{n}")).model_copy(update={"camera": camera}) for n, camera in enumerate(["", "x" * 3000])]
    assert await store.keep(strange) == strange
    result = await store.get("r1")
    assert result is not None
    assert (result.camera, result.answer) == (None, strange[1])
