"""What the stores in SQLite do beyond the contract: indexes, and nothing left on the disk."""

import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from facewire.adapters.sqlite import gallery as sqlite_gallery
from facewire.adapters.sqlite.database import Database
from facewire.adapters.sqlite.gallery import _PERSON, SqliteGalleryStore
from facewire.adapters.sqlite.results import _OVERDUE, SqliteResultStore, _page_statement
from facewire.domain.errors import GalleryError
from facewire.domain.messages import FaceCrop, RecognizedFace, RecognizedFaces, now
from facewire.domain.ports import EnrolledFace, ResultQuery

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
CURSOR = "WzEsICJhIl0="


@pytest.mark.parametrize(
    ("query", "index"),
    [
        (ResultQuery(), "results_by_time"),
        (ResultQuery(cursor=CURSOR), "results_by_time"),
        (ResultQuery(since=NOON, until=NOON), "results_by_time (received_at>?"),
        (ResultQuery(camera="door", cursor=CURSOR), "results_by_camera (camera=? AND "),
        (ResultQuery(status="pending", cursor=CURSOR), "results_by_status (status=? AND "),
        (ResultQuery(person="Ada", cursor=CURSOR), "PRIMARY KEY (person=? AND recognized=? AND "),
    ],
)
async def test_every_page_comes_from_an_index_in_order(tmp_path: Path, query: ResultQuery, index: str) -> None:
    statement, values = _page_statement(query)
    plan = await _plan(tmp_path, statement, values)
    assert index in plan
    assert "TEMP B-TREE" not in plan


async def test_overdue_requests_come_from_an_index(tmp_path: Path) -> None:
    plan = await _plan(tmp_path, _OVERDUE, [0, 10])
    assert "results_by_status (status=? AND received_at<?)" in plan
    assert "TEMP B-TREE" not in plan


async def test_the_oldest_frames_of_a_camera_come_from_an_index(tmp_path: Path) -> None:
    query = "SELECT id FROM messages WHERE queue = ? AND sender = ? ORDER BY id LIMIT 1"
    assert "messages_by_sender (queue=? AND sender=?)" in await _plan(tmp_path, query, ["inbox", "door"])


async def test_one_person_comes_from_an_index_in_order(tmp_path: Path) -> None:
    plan = await _plan(tmp_path, _PERSON, ["Ada"])
    assert "faces_by_person (person=?)" in plan
    assert "TEMP B-TREE" not in plan


async def test_a_deleted_person_leaves_no_bytes_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "facewire.db"
    secret = b"the embedding and the picture of Ada"
    crop = FaceCrop(jpeg=secret * 1000, landmarks=None)
    answer = RecognizedFaces(request_id="r1", result="Ada of Marycot", faces=(_face("Ada of Marycot"),))
    async with Database.open(path) as database:
        gallery, results = SqliteGalleryStore(database), SqliteResultStore(database)
        await gallery.add([EnrolledFace("f1", "Ada of Marycot", "e", secret, NOON, crop)])
        await results.keep([answer])
        await gallery.delete_person("Ada of Marycot")
        await results.forget_person("Ada of Marycot", gallery_version=2)
    left = path.read_bytes()
    assert secret not in left
    assert b"Ada of Marycot" not in left


async def test_a_deletion_is_remembered_for_a_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = EnrolledFace("f1", "Ada", "e", b"1", now() - timedelta(hours=1), None)
    async with Database.open(tmp_path / "facewire.db") as database:
        gallery = SqliteGalleryStore(database)
        await gallery.delete_person("Ada")
        await gallery.delete_person("Grace")
        with pytest.raises(GalleryError, match="deleted"):
            await gallery.add([before])
        tomorrow = now() + timedelta(hours=25)
        monkeypatch.setattr(sqlite_gallery, "now", lambda: tomorrow)
        await gallery.delete_person("Grace")
        await gallery.add([before])


def _face(person: str) -> RecognizedFace:
    box = (0.0, 0.0, 1.0, 1.0)
    return RecognizedFace(index=0, person=person, known=True, similarity=1.0, box=box, landmarks=None, confidence=1.0)


async def _plan(folder: Path, statement: str, values: list[object]) -> str:
    def explain(connection: sqlite3.Connection) -> str:
        return "\n".join(row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", values))

    async with Database.open(folder / "facewire.db") as database:
        return await database.read(explain)
