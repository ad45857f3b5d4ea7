"""A database of version 0.1 is opened and goes on working. The dump was written by the code of that version."""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from facewire.adapters.sqlite.database import Database
from facewire.adapters.sqlite.gallery import SqliteGalleryStore
from facewire.adapters.sqlite.inbox import Inbox
from facewire.adapters.sqlite.queue import SqliteQueue
from facewire.adapters.sqlite.results import SqliteResultStore
from facewire.domain.messages import Frame, RecognizedFaces

DUMP = Path(__file__).parents[1] / "goldens" / "facewire_0_1.sql"


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    path = tmp_path / "facewire.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(DUMP.read_text())
    path.chmod(0o600)
    async with Database.open(path) as opened:
        yield opened


async def test_its_people_are_there(database: Database) -> None:
    gallery = SqliteGalleryStore(database)
    version, faces = await gallery.faces("dlib-resnet29")
    assert (version, [(face.face_id, face.person) for face in faces]) == (1, [("face-1", "Ada Lovelace")])
    assert np.frombuffer(faces[0].embedding, np.float32).tolist() == [1.0] + [0.0] * 127
    (kept,) = await gallery.crops()
    assert kept.crop is not None
    assert await gallery.delete_person("Ada Lovelace") == 1


async def test_its_answers_are_there_and_better_ones_take_their_place(database: Database) -> None:
    results = SqliteResultStore(database)
    known = await results.get("answered")
    assert known is not None
    assert known.answer is not None
    assert (known.status, known.answer.result, known.camera) == ("done", "Ada Lovelace", "door")
    assert await results.keep([known.answer]) == []
    pending = await results.get("waits")
    assert pending is not None
    answer = RecognizedFaces(
        request_id="waits", result="No-Face", content_sha256=pending.content_sha256, received_at=pending.received_at
    )
    assert await results.keep([answer]) == [answer]


async def test_its_frames_and_dead_letters_are_received(database: Database) -> None:
    inbox = Inbox(database, max_bytes=10**6, policy="all", id_window_seconds=600)
    (lease,) = await inbox.receive(10, wait=0)
    assert Frame.from_bytes(lease.body).request_id == "waits"
    await inbox.acknowledge([lease])
    (dead,) = await SqliteQueue(database, "responses").dead_letters().receive(10, wait=0)
    assert dead.body == b"dead"
