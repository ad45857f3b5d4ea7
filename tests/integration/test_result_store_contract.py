"""What every result store does, whatever keeps the results."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from dynamodb_tables import dynamodb_table
from facewire.adapters.aws.dynamodb.results import DynamoDbResultStore
from facewire.adapters.aws.dynamodb.table import Table
from facewire.adapters.sqlite.database import Database
from facewire.adapters.sqlite.results import SqliteResultStore
from facewire.domain.errors import StoreError
from facewire.domain.messages import (
    FAILED,
    UNKNOWN,
    Enrolled,
    Failure,
    Frame,
    RecognizedFace,
    RecognizedFaces,
    RunnerUp,
    Source,
    sha256,
)
from facewire.domain.names import raw_frame_id
from facewire.domain.ports import Result, ResultPage, ResultQuery, ResultStore
from facewire.testing import MemoryResultStore

WINDOW = timedelta(minutes=10)
NOON = datetime(2026, 11, 22, 12, 0, 0, 123456, tzinfo=UTC)
#: So long that DynamoDB does not delete by its own clock what a test has set another clock for.
KEPT = timedelta(days=30_000)


@asynccontextmanager
async def sqlite_store(request: pytest.FixtureRequest) -> AsyncIterator[ResultStore]:
    async with Database.open(request.getfixturevalue("tmp_path") / "facewire.db") as database:
        yield SqliteResultStore(database, id_window_seconds=WINDOW.total_seconds())


@asynccontextmanager
async def memory_store(_request: pytest.FixtureRequest) -> AsyncIterator[ResultStore]:
    yield MemoryResultStore(id_window_seconds=WINDOW.total_seconds())


class TimedDynamoDbStore(DynamoDbResultStore):
    """A store in DynamoDB of which the time is set: results expire there by themselves."""

    def __init__(self, table: Table) -> None:
        self.moment = NOON
        window = WINDOW.total_seconds()
        super().__init__(table, id_window_seconds=window, kept_days=KEPT.days, clock=lambda: self.moment)


@asynccontextmanager
async def dynamodb_store(request: pytest.FixtureRequest) -> AsyncIterator[ResultStore]:
    async with dynamodb_table(request.getfixturevalue("aws_environment")) as table:
        yield TimedDynamoDbStore(table)


async def let_expire(store: ResultStore, before: datetime) -> None:
    """Let time pass until all that was received before that moment has expired."""
    if isinstance(store, TimedDynamoDbStore):
        store.moment = before + KEPT
    await store.expire(before, forget_before=NOON - KEPT)


BACKENDS: dict[str, Callable[[pytest.FixtureRequest], AbstractAsyncContextManager[ResultStore]]] = {
    "memory": memory_store,
    "sqlite": sqlite_store,
    "dynamodb": dynamodb_store,
}


@pytest.fixture(params=sorted(BACKENDS))
async def store(request: pytest.FixtureRequest) -> AsyncIterator[ResultStore]:
    async with BACKENDS[request.param](request) as store:
        yield store


def frame(content: bytes = b"picture", *, after: timedelta = timedelta(), request_id: str = "r1") -> Frame:
    return Frame.of(content, request_id=request_id, camera="door", received_at=NOON + after)


def face(person: str | None, *, known: bool = True, **fields: Any) -> RecognizedFace:
    similarity = None if person is None else 0.9
    box = (1.0, 2.0, 3.0, 4.0)
    return RecognizedFace(
        index=0, person=person, known=known, similarity=similarity, box=box, landmarks=None, confidence=1.0, **fields
    )


def done(
    request: Frame, *people: str, source: Source = "cloud", result: str | None = None, **fields: Any
) -> RecognizedFaces:
    told = {
        "request_id": request.request_id,
        "camera": request.camera,
        "received_at": request.received_at,
        "content_sha256": request.content_sha256,
        "result": result or (people[0] if people else UNKNOWN),
        "faces": tuple(face(person) for person in people),
    }
    return RecognizedFaces(source=source, **{**told, **fields})


def failed(request: Frame, stage: str = "detect", code: str = "not_an_image", **fields: Any) -> RecognizedFaces:
    error = Failure(stage=stage, code=code, detail="it is a text")
    return done(request, status="failed", result=FAILED, error=error, **fields)


async def answer_of(store: ResultStore, request_id: str = "r1") -> RecognizedFaces | None:
    result = await store.get(request_id)
    assert result is not None
    return result.answer


async def test_a_request_never_seen_is_unknown(store: ResultStore) -> None:
    assert await store.get("r1") is None


async def test_an_expected_request_is_pending(store: ResultStore) -> None:
    await store.expect(frame())
    assert await store.get("r1") == Result("r1", "pending", "door", sha256(b"picture"), NOON, None)


async def test_an_answer_is_kept_whole(store: ResultStore) -> None:
    await store.expect(frame())
    answer = done(
        frame(),
        "Ada",
        timings_ms={"embed": 1.5},
        frame={"width": 640, "height": 480, "bytes": 7},
        faces=(face("Ada", runner_up=RunnerUp(person="Grace", similarity=0.3)),),
    )
    assert await store.keep([answer]) == [answer]
    assert await store.get("r1") == Result("r1", "done", "door", sha256(b"picture"), NOON, answer)


async def test_an_answer_nobody_announced_is_kept(store: ResultStore) -> None:
    answer = done(frame(), "Ada")
    assert await store.keep([answer]) == [answer]
    assert await store.get("r1") == Result("r1", "done", "door", sha256(b"picture"), NOON, answer)


async def test_a_redelivered_answer_changes_nothing(store: ResultStore) -> None:
    first, again = done(frame(), "Ada"), done(frame(), "Grace")
    assert await store.keep([first]) == [first]
    assert await store.keep([again, first]) == []
    assert await answer_of(store) == first


@pytest.mark.parametrize("expected", [True, False])
async def test_the_better_answer_stays_whatever_the_order(store: ResultStore, *, expected: bool) -> None:
    ladder = [failed(frame()), done(frame(), source="edge"), done(frame(), "Ada")]
    if expected:
        await store.expect(frame())
    for answer in ladder:
        assert await store.keep([answer]) == [answer]
        assert await answer_of(store) == answer
    assert await store.keep(ladder) == []
    assert await answer_of(store) == ladder[-1]


async def test_the_best_of_one_batch_stays(store: ResultStore) -> None:
    best = done(frame(), "Ada")
    await store.keep([failed(frame()), best, done(frame(), source="edge")])
    assert await answer_of(store) == best


async def test_expecting_an_answered_request_again_changes_nothing(store: ResultStore) -> None:
    answer = done(frame(), "Ada")
    await store.expect(frame())
    await store.keep([answer])
    await store.expect(frame(after=WINDOW))
    assert await store.get("r1") == Result("r1", "done", "door", sha256(b"picture"), NOON, answer)


@pytest.mark.parametrize(
    ("stage", "code", "status"),
    [
        ("detect", "not_an_image", "failed"),
        ("gallery", "face_id_taken", "failed"),
        ("detect", "gave_up", "pending"),
        ("gateway", "lost", "pending"),
        ("queue", "dead_letter", "pending"),
        ("queue", "unreachable", "pending"),
        ("store", "busy", "pending"),
        ("store", "disk_full", "pending"),
    ],
)
async def test_what_failed_for_a_reason_of_the_moment_is_pending_when_sent_again(
    store: ResultStore, stage: str, code: str, status: str
) -> None:
    await store.keep([failed(frame(), stage, code)])
    await store.expect(frame(after=timedelta(minutes=1)))
    result = await store.get("r1")
    assert result is not None
    assert result.status == status


async def test_expecting_a_pending_request_again_keeps_its_time(store: ResultStore) -> None:
    await store.expect(frame())
    await store.expect(frame(after=timedelta(minutes=5)))
    result = await store.get("r1")
    assert result is not None
    assert result.received_at == NOON


@pytest.mark.parametrize(
    "later", [frame(b"other"), frame(after=WINDOW + timedelta(seconds=1))], ids=["other_content", "after_the_window"]
)
async def test_an_id_used_again_starts_anew(store: ResultStore, later: Frame) -> None:
    await store.expect(frame())
    await store.keep([done(frame(), "Ada")])
    await store.expect(later)
    pending = Result("r1", "pending", "door", later.content_sha256, later.received_at, None)
    assert await store.get("r1") == pending
    assert (await store.page(ResultQuery(person="Ada"))).results == []

    answer = done(later, "Grace")
    assert await store.keep([answer]) == [answer]
    assert [result.answer for result in (await store.page(ResultQuery())).results] == [answer]


async def test_an_answer_to_other_content_than_the_pending_is_not_kept(store: ResultStore) -> None:
    await store.expect(frame(b"other"))
    assert await store.keep([done(frame(), "Ada")]) == []
    assert await answer_of(store) is None


async def test_an_answer_to_other_content_within_the_window_is_not_kept(store: ResultStore) -> None:
    await store.keep([done(frame(), source="edge")])
    assert await store.keep([done(frame(b"other"), "Ada")]) == []


@pytest.mark.parametrize("content", [b"picture", b"other"])
async def test_a_later_answer_that_nobody_announced_takes_the_place(store: ResultStore, content: bytes) -> None:
    await store.keep([done(frame(), "Ada")])
    answer = failed(frame(content, after=WINDOW + timedelta(seconds=1)))
    assert await store.keep([answer]) == [answer]
    assert await answer_of(store) == answer
    assert (await store.page(ResultQuery(person="Ada"))).results == []


async def test_answers_without_a_hash_belong_to_the_request_of_their_id(store: ResultStore) -> None:
    await store.expect(frame())
    answer = done(frame(), "Ada", content_sha256="")
    assert await store.keep([answer]) == [answer]
    result = await store.get("r1")
    assert result is not None
    assert result.content_sha256 == sha256(b"picture")


async def test_a_late_failure_without_a_hash_replaces_nothing(store: ResultStore) -> None:
    answer = done(frame(), "Ada")
    await store.keep([answer])
    assert await store.keep([failed(frame(after=timedelta(days=1)), content_sha256="")]) == []
    assert await answer_of(store) == answer


async def test_a_late_answer_improves_a_request_given_up(store: ResultStore) -> None:
    await store.expect(frame())
    await store.keep([failed(frame())])
    late = done(frame(), "Ada")
    assert await store.keep([late]) == [late]


def raw(after: timedelta = timedelta()) -> Frame:
    """Return a still that came without an id of its own."""
    return frame(after=after, request_id=raw_frame_id("door", sha256(b"picture")))


async def test_a_raw_still_sent_again_after_the_gallery_has_changed_is_a_new_question(store: ResultStore) -> None:
    first, again = raw(), raw(timedelta(minutes=1))
    await store.keep([done(first, gallery_version=1)])
    assert await store.keep([done(again, gallery_version=1)]) == [], "the same gallery says the same"
    assert await store.keep([done(raw(), "Ada", gallery_version=2)]) == [], "the same frame, delivered twice"
    newer = done(again, "Ada", gallery_version=2)
    assert await store.keep([newer]) == [newer]
    assert await answer_of(store, first.request_id) == newer


async def test_a_frame_with_an_id_of_its_own_is_the_same_question_whatever_the_gallery(store: ResultStore) -> None:
    await store.keep([done(frame(), gallery_version=1)])
    assert await store.keep([done(frame(after=timedelta(minutes=1)), "Ada", gallery_version=2)]) == []


async def test_what_failed_before_a_frame_was_sent_again_is_no_answer_to_it(store: ResultStore) -> None:
    """A detector that comes back gives up what waited too long, and then finds the later frame."""
    later = frame(after=timedelta(minutes=9))
    await store.expect(later)
    assert await store.keep([failed(frame(), code="lost")]) == []
    assert await answer_of(store) is None
    assert await store.keep([failed(later, code="lost")])


async def test_overdue_are_the_oldest_pending(store: ResultStore) -> None:
    for minute in (3, 1, 2, 0):
        await store.expect(frame(request_id=f"r{minute}", after=timedelta(minutes=minute)))
    await store.keep([failed(frame(request_id="r1"))])

    before = NOON + timedelta(minutes=3)
    assert [result.request_id for result in await store.overdue(before, 10)] == ["r0", "r2"]
    assert [result.request_id for result in await store.overdue(before, 1)] == ["r0"]


async def test_what_has_expired_has_no_answer_and_is_in_no_history(store: ResultStore) -> None:
    day = timedelta(days=1)
    await store.keep([done(frame(), "Ada"), done(frame(request_id="young", after=day), "Ada")])
    await store.expect(frame(request_id="never"))

    await let_expire(store, NOON + day)
    for request_id in ("r1", "never"):
        result = await store.get(request_id)
        assert result is not None
        assert (result.status, result.camera, result.answer) == ("expired", None, None)
    for query in (ResultQuery(), ResultQuery(person="Ada"), ResultQuery(camera="door"), ResultQuery(status="done")):
        assert ids(await store.page(query)) == ["young"]
    assert await store.overdue(NOON + 9 * day, 10) == []


async def test_an_expired_request_is_not_answered_but_its_id_is_free(store: ResultStore) -> None:
    await store.expect(frame())
    await let_expire(store, NOON + WINDOW)
    assert await store.keep([done(frame(), "Ada")]) == []

    later = frame(after=timedelta(days=1))
    await store.expect(later)
    answer = done(later, "Ada")
    assert await store.keep([answer]) == [answer]
    assert await answer_of(store) == answer


@pytest.fixture
async def history(store: ResultStore) -> ResultStore:
    """Six requests, a minute apart but for r2 and r3: Ada, Grace with Ada, nobody, Ada, r4 pending, r5 failed."""
    sent = {name: frame(request_id=name, after=timedelta(minutes=int(name[1]))) for name in ("r0", "r1", "r2", "r4")}
    sent["r3"] = frame(request_id="r3", after=timedelta(minutes=2))
    sent["r5"] = Frame.of(b"picture", request_id="r5", camera="gate", received_at=NOON + timedelta(minutes=5))
    await store.keep([done(sent["r0"], "Ada"), done(sent["r1"], "Grace", "Ada"), done(sent["r2"])])
    await store.keep([done(sent["r3"], "Ada"), failed(sent["r5"])])
    await store.expect(sent["r4"])
    return store


def ids(page: ResultPage) -> list[str]:
    return [result.request_id for result in page.results]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (ResultQuery(), ["r5", "r4", "r3", "r2", "r1", "r0"]),
        (ResultQuery(camera="gate"), ["r5"]),
        (ResultQuery(camera="nowhere"), []),
        (ResultQuery(person="Ada"), ["r3", "r1", "r0"]),
        (ResultQuery(person="ada"), []),
        (ResultQuery(status="pending"), ["r4"]),
        (ResultQuery(status="failed"), ["r5"]),
        (ResultQuery(status="done", camera="door"), ["r3", "r2", "r1", "r0"]),
        (ResultQuery(since=NOON + timedelta(minutes=4)), ["r5", "r4"]),
        (ResultQuery(until=NOON + timedelta(minutes=1)), ["r1", "r0"]),
        (ResultQuery(person="Ada", since=NOON + timedelta(minutes=1), until=NOON + timedelta(minutes=1)), ["r1"]),
        (ResultQuery(person="Ada", camera="door", status="done"), ["r3", "r1", "r0"]),
        (ResultQuery(person="Ada", camera="gate"), []),
    ],
)
@pytest.mark.parametrize("limit", [1, 2, 50])
async def test_the_history_is_newest_first_in_pages_of_any_size(
    history: ResultStore, query: ResultQuery, expected: list[str], limit: int
) -> None:
    got: list[str] = []
    cursor: str | None = None
    for _ in range(10):
        page = await history.page(
            ResultQuery(query.camera, query.person, query.status, query.since, query.until, limit, cursor)
        )
        assert len(page.results) <= limit
        got += ids(page)
        cursor = page.cursor
        if cursor is None:
            break
    assert got == expected


async def test_a_page_goes_on_where_the_last_ended_though_newer_came(history: ResultStore) -> None:
    first = await history.page(ResultQuery(limit=2))
    await history.keep([done(frame(request_id="r9", after=timedelta(minutes=9)))])
    assert ids(await history.page(ResultQuery(limit=2, cursor=first.cursor))) == ["r3", "r2"]


@pytest.mark.parametrize(
    "cursor", ["", "x", "aGVsbG8=", "WzEsIDJd", "WyJhIiwgImIiXQ==", "e30=", "WzFlOTksICJhIl0=", "é"]
)
async def test_a_cursor_of_nobodys_is_refused(store: ResultStore, cursor: str) -> None:
    with pytest.raises(StoreError) as caught:
        await store.page(ResultQuery(cursor=cursor))
    assert caught.value.code == "bad_cursor"


async def test_an_enrolment_is_in_the_history_of_its_person_once_it_succeeds(store: ResultStore) -> None:
    await store.keep([done(frame(), result="Ada", enrolled=Enrolled(person="Ada", face_id="f1"))])
    refused = Enrolled(person="Ada", refused=("too_small",))
    await store.keep([done(frame(request_id="r2"), enrolled=refused)])
    assert ids(await store.page(ResultQuery(person="Ada"))) == ["r1"]


async def test_a_forgotten_person_is_in_no_answer(store: ResultStore) -> None:
    ada = RunnerUp(person="Ada", similarity=0.5)
    await store.keep(
        [
            done(frame(request_id="known"), "Ada", "Grace"),
            done(frame(request_id="runner_up"), faces=(face("Grace", runner_up=ada),)),
            done(frame(request_id="nearest"), faces=(face(None, known=False, nearest=ada),)),
            done(frame(request_id="enrolled"), enrolled=Enrolled(person="Ada", face_id="f1")),
            done(frame(request_id="like"), enrolled=Enrolled(person="Grace", face_id="f2", looks_like=ada)),
            done(frame(request_id="other"), "Grace"),
        ]
    )
    assert await store.forget_person("Ada", gallery_version=1) == 5
    assert await store.forget_person("Ada", gallery_version=1) == 0

    assert (await store.page(ResultQuery(person="Ada"))).results == []
    results = (await store.page(ResultQuery())).results
    assert len(results) == 6
    assert not any(b"Ada" in result.answer.to_bytes() for result in results if result.answer)
    assert set(ids(await store.page(ResultQuery(person="Grace")))) == {"known", "runner_up", "like", "other"}

    known = await answer_of(store, "known")
    assert known is not None
    assert known.result == "Grace"
    assert [(face.person, face.known, face.similarity) for face in known.faces] == [
        (None, False, None),
        ("Grace", True, 0.9),
    ]


async def test_a_result_without_its_person_is_the_next_known_one_and_unknown_for_an_enrolment(
    store: ResultStore,
) -> None:
    enrolled = Enrolled(person="Ada", face_id="f1")
    await store.keep(
        [
            done(frame(request_id="next"), "Ada", "Grace", "Joan"),
            done(frame(request_id="alone"), "Ada"),
            done(frame(request_id="enrolled"), "Ada", "Grace", result="Ada", enrolled=enrolled),
            done(frame(request_id="other"), "Grace", "Ada"),
        ]
    )
    await store.forget_person("Ada", gallery_version=1)
    answers = {result.request_id: result.answer for result in (await store.page(ResultQuery())).results}
    assert {name: answer and answer.result for name, answer in answers.items()} == {
        "next": "Grace",
        "alone": UNKNOWN,
        "enrolled": UNKNOWN,
        "other": "Grace",
    }


async def test_an_answer_under_way_forgets_a_person_deleted_meanwhile(store: ResultStore) -> None:
    await store.forget_person("Ada", gallery_version=7)
    older = done(frame(request_id="older"), "Ada", gallery_version=6)
    anew = done(frame(request_id="anew"), "Ada", gallery_version=7)
    kept = await store.keep([older, anew])
    assert [answer.result for answer in kept] == [UNKNOWN, "Ada"]
    assert (kept[0].faces[0].person, kept[0].faces[0].reason) == (None, "forgotten")
    assert ids(await store.page(ResultQuery(person="Ada"))) == ["anew"]


async def test_a_deletion_that_comes_late_does_not_lower_the_guard(store: ResultStore) -> None:
    await store.forget_person("Ada", gallery_version=7)
    await store.forget_person("Ada", gallery_version=3)
    (kept,) = await store.keep([done(frame(), "Ada", gallery_version=6)])
    assert kept.result == UNKNOWN
    await store.forget_person("Ada", gallery_version=9)
    (kept,) = await store.keep([done(frame(request_id="r2"), "Ada", gallery_version=8)])
    assert kept.result == UNKNOWN


async def test_enrolling_a_forgotten_person_again_says_so(store: ResultStore) -> None:
    await store.forget_person("Ada", gallery_version=7)
    enrolled = Enrolled(person="Ada", face_id="f1")
    answer = done(frame(), "Ada", gallery_version=6, result="Ada", enrolled=enrolled)
    (kept,) = await store.keep([answer])
    assert (kept.result, kept.enrolled, kept.faces[0].person) == ("Ada", enrolled, None)


@pytest.mark.parametrize("request_id", ["forgotten", "days", "gallery", "changes", "deleted", "frame", "person"])
async def test_no_request_id_disturbs_what_the_store_keeps_for_itself(store: ResultStore, request_id: str) -> None:
    await store.forget_person("Grace", gallery_version=1)
    for answer in [done(frame(request_id=name), "Ada", gallery_version=1) for name in (request_id, "r1")]:
        assert await store.keep([answer]) == [answer]
    assert sorted(ids(await store.page(ResultQuery()))) == sorted([request_id, "r1"])
    assert await store.forget_person("Ada", gallery_version=2) == 2
    await let_expire(store, NOON + timedelta(days=1))
    assert ids(await store.page(ResultQuery())) == []


async def test_more_answers_forget_a_person_than_one_change_takes(store: ResultStore) -> None:
    await store.keep([done(frame(request_id=f"r{number}"), "Ada") for number in range(450)])
    assert await store.forget_person("Ada", gallery_version=1) == 450
    assert (await store.page(ResultQuery(person="Ada"))).results == []
