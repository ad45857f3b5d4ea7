"""The inbox: each request once, bounded in bytes, in step with the results."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import pytest

from facewire.adapters.sqlite.database import Database
from facewire.adapters.sqlite.inbox import Inbox
from facewire.adapters.sqlite.queue import SqliteQueue, insert
from facewire.adapters.sqlite.results import SqliteResultStore
from facewire.domain.errors import IntakeError, QueueError
from facewire.domain.messages import Failure, Frame, RecognizedFaces, now
from facewire.domain.ports import ResultQuery

BIG = 100_000


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    async with Database.open(tmp_path / "facewire.db") as database:
        yield database


def frame(request_id: str, content: bytes = b"picture", *, camera: str | None = "door", **fields: Any) -> Frame:
    return Frame.of(content, request_id=request_id, camera=camera, **fields)


def inbox_of(
    database: Database, policy: Literal["latest", "all"] = "all", max_bytes: int = BIG, **fields: Any
) -> Inbox:
    return Inbox(database, max_bytes=max_bytes, policy=policy, **{"id_window_seconds": 600.0, **fields})


def room_for(*frames: Frame) -> int:
    return sum(len(frame.to_bytes()) for frame in frames)


async def contents(inbox: Inbox) -> list[str]:
    return [Frame.from_bytes(lease.body).request_id for lease in await inbox.receive(100, wait=0)]


async def test_an_accepted_frame_comes_out_whole(database: Database) -> None:
    inbox = inbox_of(database)
    sent = frame("r1", bytes(range(256)), enroll_as="Ada", filename="a.jpg")
    assert await inbox.accept(sent) == []
    (lease,) = await inbox.receive(1, wait=0)
    assert Frame.from_bytes(lease.body) == sent


async def test_a_frame_may_be_larger_than_a_message(database: Database) -> None:
    inbox = inbox_of(database, max_bytes=30_000_000)
    await inbox.accept(frame("r1", bytes(10 * 1024 * 1024)))
    (lease,) = await inbox.receive(1, wait=0)
    assert len(Frame.from_bytes(lease.body).content) == 10 * 1024 * 1024


async def test_the_same_request_again_changes_nothing_in_hand_or_not(database: Database) -> None:
    inbox = inbox_of(database)
    await inbox.accept(frame("r1"))
    await inbox.accept(frame("r1"))
    (lease,) = await inbox.receive(10, wait=0)
    await inbox.accept(frame("r1"))
    await inbox.acknowledge([lease])
    await inbox.accept(frame("r1"))
    assert await inbox.receive(10, wait=0) == []


async def test_a_frame_handed_over_again_comes_in_again_once_it_has_left(database: Database) -> None:
    inbox = inbox_of(database)
    await inbox.accept(frame("r1"), again=True)
    await inbox.accept(frame("r1"), again=True)
    (lease,) = await inbox.receive(10, wait=0)
    await inbox.accept(frame("r1"), again=True)
    assert await contents(inbox) == []
    await inbox.acknowledge([lease])
    await inbox.accept(frame("other"))  # may take the place that the first had in the table

    await inbox.accept(frame("r1"), again=True)
    await inbox.accept(frame("r1"), again=True)

    assert await contents(inbox) == ["other", "r1"]


async def test_a_camera_that_sends_the_frame_of_another_one_gets_its_own_turn(database: Database) -> None:
    """Passed over, it would wait for an answer that goes to the other one."""
    inbox = inbox_of(database, results=SqliteResultStore(database))
    for camera in ("door", "hall", "hall", "door"):
        await inbox.accept(frame("r1", camera=camera), again=True)
    leases = await inbox.receive(10, wait=0)
    assert [Frame.from_bytes(lease.body).camera for lease in leases] == ["door", "hall"]


async def test_a_frame_sent_again_is_passed_over_while_its_answer_is_to_come_and_looked_at_anew_after_it(
    database: Database,
) -> None:
    results = SqliteResultStore(database)
    inbox = inbox_of(database, results=results)
    sent = frame("r1")
    await inbox.accept(sent, again=True)
    await inbox.acknowledge(await inbox.receive(1, wait=0))
    await inbox.accept(frame("r1"), again=True)
    assert await contents(inbox) == [], "on its way to the recognizer"
    await results.keep([failure("r1", "not_an_image")])
    await inbox.accept(frame("r1"), again=True)
    assert await contents(inbox) == ["r1"]


@pytest.mark.parametrize("lost", [True, False], ids=["lost", "window over"])
async def test_a_request_that_is_over_takes_the_turn_of_the_same_frame_that_still_waits(
    database: Database, *, lost: bool
) -> None:
    """A second copy would be looked at twice; at the end of the queue it would be lost again and again."""
    results = SqliteResultStore(database) if lost else None
    inbox = inbox_of(database, id_window_seconds=600.0 if lost else 0.0, results=results)
    earlier, later = frame("r1", received_at=now() - timedelta(seconds=200)), frame("r1")
    await inbox.accept(earlier, again=True)
    await inbox.accept(frame("r2"), again=True)
    if results is not None:
        await results.keep([failure("r1", "lost").model_copy(update={"received_at": earlier.received_at})])

    for copy in (later, later, earlier):
        await inbox.accept(copy, again=True)

    leases = await inbox.receive(10, wait=0)
    first, second = (Frame.from_bytes(lease.body) for lease in leases)
    assert (first, second.request_id) == (later, "r2")
    await inbox.acknowledge(leases)
    assert (await inbox.depth()).bytes == 0
    if results is not None:
        assert (found := await results.get("r1")) is not None
        assert (found.status, found.received_at) == ("pending", later.received_at)


async def test_a_request_that_is_over_takes_no_turn_of_another_picture_or_purpose(database: Database) -> None:
    inbox = inbox_of(database, id_window_seconds=100.0)
    long_ago = now() - timedelta(seconds=200)
    await inbox.accept(frame("r1", received_at=long_ago), again=True)
    await database.write(lambda connection: connection.execute("DELETE FROM seen").rowcount)
    await inbox.accept(frame("r1", enroll_as="Ada", received_at=long_ago), again=True)
    assert len(await inbox.receive(10, wait=0)) == 2


async def test_a_frame_in_flight_as_its_request_ends_is_taken_anew(database: Database) -> None:
    """Who has it may just be giving it up."""
    inbox = inbox_of(database, id_window_seconds=100.0)
    sent = frame("r1", received_at=now() - timedelta(seconds=200))
    await inbox.accept(sent, again=True)
    await database.write(lambda connection: connection.execute("DELETE FROM seen").rowcount)
    assert len(await inbox.receive(1, wait=0)) == 1
    await inbox.accept(frame("r1"), again=True)
    assert await contents(inbox) == ["r1"]


async def test_a_frame_among_the_dead_letters_has_left(database: Database) -> None:
    inbox = inbox_of(database)
    await inbox.accept(frame("r1"))
    (lease,) = await inbox.receive(1, wait=0)
    await inbox.dead_letter(lease, "poison")
    await inbox.accept(frame("r1"), again=True)
    assert await contents(inbox) == ["r1"]


async def test_handed_over_again_an_id_still_stands_for_one_content(database: Database) -> None:
    inbox = inbox_of(database)
    await inbox.accept(frame("r1"), again=True)
    await inbox.acknowledge(await inbox.receive(1, wait=0))
    with pytest.raises(IntakeError, match="id_conflict"):
        await inbox.accept(frame("r1", b"other"), again=True)


async def test_handed_over_again_the_window_of_an_id_does_not_begin_anew(database: Database) -> None:
    inbox = inbox_of(database)
    sent = frame("r1", received_at=now() - timedelta(seconds=500))
    for _ in range(2):
        await inbox.accept(sent, again=True)
        await inbox.acknowledge(await inbox.receive(1, wait=0))
        noted = await database.read(lambda connection: connection.execute("SELECT accepted_at FROM seen").fetchall())
        assert noted == [(sent.received_at.timestamp(),)]


async def test_a_frame_that_comes_twice_after_the_window_of_its_id_is_taken_once(database: Database) -> None:
    """Detectors that were away for long get everything that was handed over meanwhile."""
    inbox = inbox_of(database)
    sent = frame("r1", received_at=now() - timedelta(seconds=700))
    await inbox.accept(sent, again=True)
    await inbox.accept(sent, again=True)
    assert await contents(inbox) == ["r1"]


async def test_a_frame_sent_anew_takes_the_place_of_what_is_held_of_it(database: Database) -> None:
    inbox = inbox_of(database)
    earlier = frame("r1")
    await inbox.accept(earlier)
    (lease,) = await inbox.receive(1, wait=0)
    later = frame("r1")
    await inbox.accept(later, anew=True)
    assert (await inbox.depth()).bytes == room_for(later)
    await inbox.acknowledge([lease])
    await inbox.withdraw([("r1", earlier.received_at)])
    (lease,) = await inbox.receive(10, wait=0)
    assert Frame.from_bytes(lease.body).received_at == later.received_at
    await inbox.withdraw([("r1", later.received_at)])
    assert (await inbox.depth()).bytes == 0


@pytest.mark.parametrize("other", [frame("r1", b"other"), frame("r1", enroll_as="Ada")], ids=["content", "purpose"])
async def test_an_id_used_for_something_else_is_a_conflict(database: Database, other: Frame) -> None:
    results = SqliteResultStore(database)
    inbox = inbox_of(database, results=results)
    await inbox.accept(frame("r1"))
    before = await results.get("r1")
    with pytest.raises(IntakeError, match=r"'r1'.*600 s") as caught:
        await inbox.accept(other)
    assert caught.value.code == "id_conflict"
    assert await contents(inbox) == ["r1"]
    assert await results.get("r1") == before


async def test_after_the_window_an_id_may_be_used_again(database: Database) -> None:
    results = SqliteResultStore(database, id_window_seconds=0)
    inbox = inbox_of(database, id_window_seconds=0.0, results=results)
    later = frame("r1", b"other")
    await inbox.accept(frame("r1"))
    await inbox.accept(later)
    assert await contents(inbox) == ["r1", "r1"]
    result = await results.get("r1")
    assert result is not None
    assert result.content_sha256 == later.content_sha256


async def test_notes_of_requests_leave_after_their_window(database: Database) -> None:
    inbox = inbox_of(database, id_window_seconds=0.0)
    for number in range(30):
        await inbox.accept(frame(f"r{number}"))
    (notes,) = await database.read(lambda connection: connection.execute("SELECT count(*) FROM seen").fetchone())
    assert notes <= 1


async def test_an_accepted_frame_is_pending_in_the_results(database: Database) -> None:
    results = SqliteResultStore(database)
    await inbox_of(database, results=results).accept(frame("r1"))
    result = await results.get("r1")
    assert result is not None
    assert (result.status, result.camera) == ("pending", "door")


async def test_a_full_inbox_refuses_under_the_policy_all_and_keeps_no_trace(database: Database) -> None:
    results = SqliteResultStore(database)
    inbox = inbox_of(database, max_bytes=room_for(frame("r1"), frame("r2")), results=results)
    await inbox.accept(frame("r1"))
    await inbox.accept(frame("r2"))
    with pytest.raises(IntakeError, match=r"FACEWIRE_INBOX_BYTES") as caught:
        await inbox.accept(frame("r3"))

    assert caught.value.code == "overloaded"
    assert await results.get("r3") is None
    leases = await inbox.receive(10, wait=0)
    assert len(leases) == 2
    await inbox.acknowledge(leases[:1])
    await inbox.accept(frame("r3"))  # the same id is no duplicate: it was not taken
    assert await contents(inbox) == ["r3"]


async def test_lent_frames_count_as_held(database: Database) -> None:
    inbox = inbox_of(database, max_bytes=room_for(frame("r1")))
    await inbox.accept(frame("r1"))
    await inbox.receive(1, wait=0)
    with pytest.raises(IntakeError, match="overloaded"):
        await inbox.accept(frame("r2"))


async def test_latest_drops_the_oldest_waiting_frames_of_the_camera(database: Database) -> None:
    frames = [frame("gate1", camera="gate"), *(frame(f"r{number}") for number in range(1, 4))]
    inbox = inbox_of(database, "latest", room_for(*frames))
    for each in frames:
        assert await inbox.accept(each) == []

    dropped = await inbox.accept(frame("r4", b"x" * 300))

    assert [(each.request_id, each.camera, each.content) for each in dropped] == [
        (name, "door", b"") for name in ("r1", "r2", "r3")
    ]
    assert dropped[0].content_sha256 == frames[1].content_sha256
    assert await contents(inbox) == ["gate1", "r4"]


async def test_dropped_frames_are_answered_in_the_same_commit(database: Database) -> None:
    responses = SqliteQueue(database, "responses")
    inbox = inbox_of(database, "latest", room_for(frame("r1"), frame("r2")), responses=responses)
    for name in ("r1", "r2"):
        await inbox.accept(frame(name))
    with pytest.raises(IntakeError, match="overloaded"):
        await inbox.accept(frame("large", b"x" * 10_000))
    assert await responses.receive(10, wait=0) == []

    waiting = asyncio.create_task(responses.receive(10, wait=10))
    await database.write(lambda _: None)
    async with asyncio.timeout(0.5):
        (left,) = await inbox.accept(frame("r3"))
        (lease,) = await waiting

    answer = RecognizedFaces.from_bytes(lease.body)
    assert (answer.request_id, answer.status, answer.source, answer.camera) == ("r1", "failed", "edge", "door")
    assert answer.content_sha256 == left.content_sha256
    assert answer.error is not None
    assert (answer.error.stage, answer.error.code) == ("intake", "skipped")


async def test_a_dropped_frame_may_be_sent_again(database: Database) -> None:
    inbox = inbox_of(database, "latest", room_for(frame("r1"), frame("r2")))
    for name in ("r1", "r2", "r3"):
        await inbox.accept(frame(name))
    await inbox.accept(frame("r1"))
    assert await contents(inbox) == ["r3", "r1"]


def failure(request_id: str, code: str) -> RecognizedFaces:
    return RecognizedFaces(
        request_id=request_id,
        status="failed",
        result="Failed",
        content_sha256=frame(request_id).content_sha256,
        error=Failure(stage="detect", code=code, detail="it failed"),
    )


@pytest.mark.parametrize("code", ["dead_letter", "gave_up", "internal", "lost", "overloaded", "skipped"])
async def test_a_frame_that_was_given_up_may_be_sent_again(database: Database, code: str) -> None:
    results = SqliteResultStore(database)
    inbox = inbox_of(database, results=results)
    await inbox.accept(frame("r1"))
    await inbox.acknowledge(await inbox.receive(1, wait=0))
    await results.keep([failure("r1", code)])

    await inbox.accept(frame("r1"))
    await inbox.accept(frame("r1"))

    assert await contents(inbox) == ["r1"]
    result = await results.get("r1")
    assert result is not None
    assert (result.status, result.answer) == ("pending", None)


async def test_a_frame_that_would_fail_again_is_not_looked_at_again(database: Database) -> None:
    results = SqliteResultStore(database)
    inbox = inbox_of(database, results=results)
    await inbox.accept(frame("r1"))
    await inbox.acknowledge(await inbox.receive(1, wait=0))
    await results.keep([failure("r1", "not_an_image")])
    await inbox.accept(frame("r1"))
    assert await contents(inbox) == []
    result = await results.get("r1")
    assert result is not None
    assert result.status == "failed"


async def test_latest_leaves_frames_in_hand_and_those_of_other_cameras(database: Database) -> None:
    frames = [frame("gate1", camera="gate"), frame("r1"), frame("upload", camera=None)]
    inbox = inbox_of(database, "latest", room_for(*frames))
    for each in frames:
        await inbox.accept(each)
    in_flight = await inbox.receive(2, wait=0)
    with pytest.raises(IntakeError, match="overloaded"):
        await inbox.accept(frame("r2"))
    with pytest.raises(IntakeError, match="overloaded"):
        await inbox.accept(frame("upload2", camera=None))

    await inbox.release(in_flight, delay=60)
    assert [each.request_id for each in await inbox.accept(frame("r2"))] == ["r1"]


async def test_latest_drops_nothing_for_a_frame_that_will_not_fit(database: Database) -> None:
    inbox = inbox_of(database, "latest", room_for(frame("r1"), frame("r2")))
    await inbox.accept(frame("r1"))
    await inbox.accept(frame("r2"))
    with pytest.raises(IntakeError, match="overloaded"):
        await inbox.accept(frame("r3", b"x" * 10_000))
    assert await contents(inbox) == ["r1", "r2"]


async def test_many_at_once_stay_within_the_bound(database: Database) -> None:
    inbox = inbox_of(database, "latest", 10 * room_for(frame("r00")))
    dropped = await asyncio.gather(*(inbox.accept(frame(f"r{number:02}")) for number in range(50)))
    assert sum(len(each) for each in dropped) == 40
    assert (await inbox.depth()).bytes <= 10 * room_for(frame("r00"))
    assert await contents(inbox) == [f"r{number}" for number in range(40, 50)]


async def test_an_accepted_frame_wakes_a_waiting_receive(database: Database) -> None:
    inbox = inbox_of(database)
    waiting = asyncio.ensure_future(inbox.receive(1, wait=10))
    await database.write(lambda _: None)
    await inbox.accept(frame("r1"))
    async with asyncio.timeout(0.5):
        await waiting


async def test_what_was_accepted_is_there_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "facewire.db"
    async with Database.open(path) as database:
        await inbox_of(database, results=SqliteResultStore(database)).accept(frame("r1"))
    async with Database.open(path) as database:
        inbox = inbox_of(database)
        await inbox.accept(frame("r1"))
        assert await contents(inbox) == ["r1"]
        assert len((await SqliteResultStore(database).page(ResultQuery(status="pending"))).results) == 1


async def test_a_failing_database_is_a_queue_error(tmp_path: Path) -> None:
    async with Database.open(tmp_path / "facewire.db") as database:
        inbox = inbox_of(database)
    with pytest.raises(QueueError, match="closed"):
        await inbox.accept(frame("r1"))


async def test_requests_that_are_answered_can_be_withdrawn_lent_or_not(database: Database) -> None:
    inbox = inbox_of(database, name="outbox")
    frames = {request_id: frame(request_id) for request_id in ("a", "b", "c")}
    for accepted in frames.values():
        await inbox.accept(accepted)
    await database.write(lambda connection: insert(connection, "other", [b"a"], request_id="a"))
    await inbox.receive(1, wait=0)
    await inbox.withdraw([(name, frames[name].received_at) for name in "ab"] + [("unknown", now())])
    assert await contents(inbox) == ["c"]
    assert (await SqliteQueue(database, "other").depth()).waiting == 1
    assert (await inbox.depth()).waiting + (await inbox.depth()).leased == 1


async def test_what_overflows_is_told_by_its_name(database: Database) -> None:
    inbox = inbox_of(database, name="outbox", max_bytes=10)
    with pytest.raises(IntakeError, match=r"the outbox holds 0 .* FACEWIRE_OUTBOX_BYTES"):
        await inbox.accept(frame("a"))
