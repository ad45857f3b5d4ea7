"""What the result store in DynamoDB does beyond the contract: writers that race, what stays there, its limits."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from dynamodb_tables import RawTable, raw_table
from facewire.adapters.aws.dynamodb.history import History
from facewire.adapters.aws.dynamodb.results import DynamoDbResultStore
from facewire.adapters.aws.dynamodb.rows import Row
from facewire.adapters.aws.dynamodb.schema import DAYS, FORGOTTEN
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
    sha256,
)
from facewire.domain.names import MAX_PERSON
from facewire.domain.ports import ResultQuery

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
#: Partitions that hold no results: the days and the guards against names of the forgotten.
BESIDES = (DAYS, FORGOTTEN)


@pytest.fixture
async def raw(aws_environment: str) -> AsyncIterator[RawTable]:
    async with raw_table(aws_environment) as raw:
        yield raw


@pytest.fixture
def store(raw: RawTable) -> DynamoDbResultStore:
    return DynamoDbResultStore(raw.table, kept_days=14)


def frame(request_id: str = "r1", *, after: timedelta = timedelta()) -> Frame:
    return Frame.of(b"picture", request_id=request_id, camera="door", received_at=NOON + after)


def face(person: str, **fields: object) -> RecognizedFace:
    told = {"index": 0, "person": person, "known": True, "similarity": 0.9, "box": (1, 2, 3, 4), "confidence": 1.0}
    return RecognizedFace.model_validate({**told, "landmarks": None, **fields})


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
    assert len(await raw.items(but=BESIDES)) == 2  # the answer and its entry


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
    await raw.table.put(Row.answered(answer).item(None), condition="attribute_not_exists(#pk)")
    assert await store.keep([answer]) == []
    result = await store.get("r1")
    assert result is not None
    assert result.answer is not None
    assert b"Ada" not in result.answer.to_bytes()


async def test_entries_without_their_answer_are_not_shown_and_deleted_with_the_person(raw: RawTable) -> None:
    store = DynamoDbResultStore(raw.table)
    await store.keep([done(frame(), "Grace")])
    crashed = done(frame(), "Ada")
    long_ago = int(time.time()) - 7200
    for key in Row.answered(crashed).entries(crashed):
        await raw.table.write_many(puts=[{**key._asdict(), "written_at": long_ago}])
    assert (await store.page(ResultQuery(person="Ada"))).results == []
    assert await store.forget_person("Ada", gallery_version=1) == 0
    assert len(await raw.items(but=BESIDES)) == 2


async def test_a_left_over_entry_does_not_show_an_answer_twice(raw: RawTable, store: DynamoDbResultStore) -> None:
    answer = done(frame(), "Ada")
    await store.keep([answer])
    for key in Row.answered(answer).entries(answer):
        await raw.table.write_many(puts=[{**key._asdict(), "written_at": 0}])
    assert [found.answer for found in (await store.page(ResultQuery(person="Ada"))).results] == [answer]


async def test_a_tombstone_that_an_index_still_shows_is_no_result(raw: RawTable, store: DynamoDbResultStore) -> None:
    await store.expect(frame())
    await store.expire(NOON + timedelta(days=1), forget_before=NOON)
    (tombstone,) = await raw.items(but=BESIDES)
    await raw.client.put_item(TableName=raw.name, Item={**tombstone, "day": {"S": "2026-11-22"}})
    assert (await store.page(ResultQuery())).results == []


async def test_names_are_in_no_key(raw: RawTable, store: DynamoDbResultStore) -> None:
    await store.keep([done(frame(), "Ada")])
    keys = [item[name]["S"] for item in await raw.items() for name in ("pk", "sk")]
    assert not any("Ada" in key for key in keys)
    assert any(sha256(b"Ada") in key for key in keys)


async def test_what_expires_leaves_a_tombstone_without_content(raw: RawTable, store: DynamoDbResultStore) -> None:
    await store.keep([done(frame(), "Ada", "Grace")])
    await store.expire(NOON + timedelta(days=1), forget_before=NOON)
    (tombstone,) = await raw.items(but=BESIDES)
    assert tombstone.keys() == {
        "pk",
        "sk",
        "status",
        "state",
        "rank",
        "content_sha256",
        "moment",
        "token",
        "expires_at",
    }
    assert int(tombstone["expires_at"]["N"]) == pytest.approx(time.time() + 86_400, abs=60)

    await store.expire(NOON, forget_before=NOON + timedelta(days=1))
    await store.expire(NOON + timedelta(days=1), forget_before=NOON)
    assert await raw.items() == []


async def test_a_result_under_a_day_that_was_over_is_found_again(store: DynamoDbResultStore) -> None:
    later = NOON + timedelta(days=2)
    await store.keep([done(frame())])
    await store.expire(later, forget_before=NOON)
    await store.expire(later, forget_before=NOON)
    await store.keep([done(frame("r2"))])
    assert [result.request_id for result in (await store.page(ResultQuery())).results] == ["r2"]


async def test_dynamodb_deletes_by_itself_what_nobody_lets_expire(raw: RawTable, store: DynamoDbResultStore) -> None:
    await store.keep([done(frame(), "Ada")])
    await store.expect(frame("r2"))
    items = await raw.items()
    expected = time.time() + 14 * 86_400
    assert all(int(item["expires_at"]["N"]) == pytest.approx(expected, abs=60) for item in items)


async def test_the_history_goes_over_days_newest_first(store: DynamoDbResultStore) -> None:
    days = [0, 3, 1, 400]
    await store.keep([done(frame(f"day {day}", after=timedelta(days=day))) for day in days])
    got: list[str] = []
    cursor: str | None = None
    while True:
        page = await store.page(ResultQuery(limit=1, cursor=cursor, until=NOON + timedelta(days=100)))
        got += [result.request_id for result in page.results]
        cursor = page.cursor
        if cursor is None:
            break
    assert got == ["day 3", "day 1", "day 0"]


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
    history = History(raw.table, examined=100)
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
    assert len(await raw.items(but=BESIDES)) == 1 + len(names)
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
