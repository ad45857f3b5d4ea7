"""What the result store in SQLite does beyond the contract: tombstones, which leave as well."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from facewire.adapters.sqlite.database import Database
from facewire.adapters.sqlite.results import SqliteResultStore
from facewire.domain.messages import Frame, RecognizedFaces

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteResultStore]:
    async with Database.open(tmp_path / "facewire.db") as database:
        yield SqliteResultStore(database)


def answer(request_id: str, *, after: timedelta = timedelta()) -> RecognizedFaces:
    return RecognizedFaces(request_id=request_id, result="Unknown", received_at=NOON + after)


async def test_expired_results_leave_tombstones_and_those_leave_too(store: SqliteResultStore) -> None:
    await store.keep([answer("r1"), answer("young", after=DAY)])
    await store.expect(Frame.of(b"picture", request_id="never", camera="door", received_at=NOON))

    assert await store.expire(NOON + DAY, forget_before=NOON) == 2
    assert await store.expire(NOON + DAY, forget_before=NOON) == 0
    for request_id in ("r1", "never"):
        result = await store.get(request_id)
        assert result is not None
        assert (result.status, result.answer) == ("expired", None)

    assert await store.expire(NOON, forget_before=NOON + DAY) == 0
    assert await store.get("r1") is None
    assert await store.get("young") is not None


async def test_more_results_expire_than_one_change_takes(store: SqliteResultStore) -> None:
    await store.keep([answer(f"r{number}") for number in range(450)])
    assert await store.expire(NOON + DAY, forget_before=NOON) == 450
    assert await store.expire(NOON + DAY, forget_before=NOON + DAY) == 0
    assert await store.get("r449") is None


async def test_an_answer_to_a_frame_sent_again_late_changes_nothing_when_it_comes_twice(
    store: SqliteResultStore,
) -> None:
    """A request still pending after its window, sent again, and answered as of the later frame."""
    first = Frame.of(b"picture", request_id="r1", camera="door", received_at=NOON)
    late = answer("r1", after=timedelta(hours=1)).model_copy(update={"content_sha256": first.content_sha256})
    await store.expect(first)
    assert await store.keep([late]) == [late]
    kept = await store.get("r1")
    assert await store.keep([late]) == []
    assert await store.get("r1") == kept
