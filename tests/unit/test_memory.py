"""The clocks of the queue and the stores in memory; the rest are their contract tests."""

import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from facewire.domain.errors import GalleryError
from facewire.domain.lifecycle import FORGOTTEN_FOR
from facewire.domain.messages import UNKNOWN, RecognizedFace, RecognizedFaces
from facewire.domain.ports import MAX_RECEIVES, EnrolledFace
from facewire.testing import MemoryGalleryStore, MemoryQueue, MemoryResultStore

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


@dataclass
class Seconds:
    moment: float = 0.0

    def __call__(self) -> float:
        return self.moment


@dataclass
class Wall:
    moment: datetime = NOON

    def __call__(self) -> datetime:
        return self.moment


async def test_a_lease_ends_and_an_extended_one_lasts_by_the_clock() -> None:
    clock = Seconds()
    queue = MemoryQueue(b"a", b"b", lease_seconds=30, clock=clock)
    _, extended = await queue.receive(2, wait=0)
    await queue.extend([extended], 60)
    clock.moment = 29.0
    assert queue.leased == [b"a", b"b"]
    assert await queue.receive(2, wait=0) == []
    clock.moment = 30.0
    assert queue.leased == [b"b"]
    assert [lease.body for lease in await queue.receive(2, wait=0)] == [b"a"]
    assert queue.receives == [2, 1]


async def test_a_delay_ends_by_the_clock_and_an_unused_receive_does_not_count() -> None:
    clock = Seconds()
    queue = MemoryQueue(b"a", clock=clock)
    await queue.release(await queue.receive(1, wait=0), delay=10, count_attempt=False)
    assert queue.leased == []
    assert await queue.receive(1, wait=0) == []
    clock.moment = 10.0
    (lease,) = await queue.receive(1, wait=0)
    assert lease.receives == 1


@pytest.mark.parametrize("returned", [True, False])
async def test_what_comes_back_from_its_last_lease_is_a_dead_letter(*, returned: bool) -> None:
    clock = Seconds()
    queue = MemoryQueue(clock=clock)
    queue.put(b"poison", receives=MAX_RECEIVES - 1)
    leases = await queue.receive(1, wait=0)
    if returned:
        await queue.release(leases)
    else:
        clock.moment = math.nextafter(queue.lease_seconds, math.inf)
    assert await queue.receive(1, wait=0) == []
    assert queue.bodies == []
    assert queue.dead == [(b"poison", "received 5 times and never acknowledged")]


async def test_a_receive_that_waits_finds_what_is_given_back_meanwhile_with_a_delay() -> None:
    queue = MemoryQueue(b"a")
    await queue.release(await queue.receive(1, wait=0), delay=0.01)
    (lease,) = await queue.receive(1, wait=10)
    assert lease.receives == 2


def answer(request_id: str) -> RecognizedFaces:
    ada = RecognizedFace(
        index=0, person="Ada", known=True, similarity=0.9, box=(1.0, 2.0, 3.0, 4.0), landmarks=None, confidence=1.0
    )
    return RecognizedFaces(
        request_id=request_id, received_at=NOON, source="cloud", result="Ada", faces=(ada,), gallery_version=1
    )


async def test_a_name_is_taken_out_of_answers_for_a_day_after_its_deletion() -> None:
    clock = Wall()
    store = MemoryResultStore(clock=clock)
    await store.forget_person("Ada", gallery_version=2)
    assert [kept.result for kept in await store.keep([answer("r1")])] == [UNKNOWN]
    clock.moment += FORGOTTEN_FOR + timedelta(seconds=1)
    await store.forget_person("Grace", gallery_version=3)
    assert [kept.result for kept in await store.keep([answer("r2")])] == ["Ada"]


async def test_a_deletion_stands_against_earlier_enrolments_for_a_day() -> None:
    clock = Wall()
    store = MemoryGalleryStore(clock=clock)
    face = EnrolledFace("f1", "Ada", "sface", b"sface", NOON - timedelta(seconds=1), None)
    await store.delete_person("Ada")
    with pytest.raises(GalleryError, match="deleted"):
        await store.add([face])
    clock.moment += FORGOTTEN_FOR + timedelta(seconds=1)
    assert await store.add([face]) == 1
