"""The gallery in an SQLite file: faces, their embeddings and enrolment crops."""

import json
import sqlite3
from collections.abc import Iterable, Sequence
from datetime import datetime

from facewire.adapters.sqlite.database import Database, erasing
from facewire.domain.deletions import check_not_deleted, face_guard, guards_of, person_guard
from facewire.domain.errors import GalleryError
from facewire.domain.lifecycle import FORGOTTEN_FOR
from facewire.domain.messages import FaceCrop, now
from facewire.domain.ports import EnrolledFace, GalleryStore, PersonSummary
from facewire.domain.timing import from_micros, to_micros

_PERSON = "SELECT face_id, enrolled_at FROM faces WHERE person = ? ORDER BY enrolled_at, rowid"


class SqliteGalleryStore(GalleryStore):
    """Enrolled faces in `database`. Names are compared as they are, code point by code point."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def version(self) -> int:
        """Return the number of the latest change; StoreError `removed` where the database file is no longer there."""
        await self._database.check()
        return await self._database.read(_version)

    async def add(self, faces: Sequence[EnrolledFace]) -> int:
        """Keep the faces and return the version.

        A known face gets the embedding of a further embedder; all else of it stays. GalleryError `face_id_taken`
        where it is another person's, `deleted` where it or its person was deleted after it was asked for; then none of
        `faces` is kept.
        """

        def change(connection: sqlite3.Connection) -> int:
            check_not_deleted(faces, _deletions(connection, guards_of(faces)))
            added = [_add(connection, face) for face in faces]
            return _next_version(connection) if any(added) else _version(connection)

        return await self._database.write(change)

    async def add_embeddings(self, faces: Sequence[EnrolledFace]) -> int:
        """Keep the embeddings of those faces that are there and of that person; return how many were new."""

        def change(connection: sqlite3.Connection) -> int:
            added = sum(_add_embedding(connection, face) for face in faces)
            if added:
                _next_version(connection)
            return added

        return await self._database.write(change)

    async def faces(self, embedder: str | None = None) -> tuple[int, list[EnrolledFace]]:
        """Return the version and all faces, or those of one embedder, oldest first, crops left out."""
        query = """
            SELECT face_id, person, embedder, embedding, enrolled_at FROM faces JOIN embeddings USING (face_id)
            WHERE ? IN (embedder, '') ORDER BY enrolled_at, faces.rowid, embeddings.rowid"""

        def select(connection: sqlite3.Connection) -> tuple[int, list[EnrolledFace]]:
            rows = connection.execute(query, (embedder or "",))
            return _version(connection), [_face(row, None) for row in rows]

        return await self._database.read(select)

    async def crops(self) -> list[EnrolledFace]:
        """Return each face that has a crop once, with it and its first embedding, oldest first."""
        query = """
            SELECT face_id, person, embedder, embedding, enrolled_at, jpeg, geometry
            FROM crops JOIN faces USING (face_id) JOIN embeddings USING (face_id)
            WHERE embeddings.rowid = (SELECT min(rowid) FROM embeddings e WHERE e.face_id = faces.face_id)
            ORDER BY enrolled_at, faces.rowid"""

        def select(connection: sqlite3.Connection) -> list[EnrolledFace]:
            rows = connection.execute(query)
            return [_face(row[:5], _crop(*row[5:])) for row in rows]

        return await self._database.read(select)

    async def people(self) -> list[PersonSummary]:
        """Return everybody enrolled, by name; `enrolled_at` is that of the first face."""
        query = "SELECT person, face_id, enrolled_at FROM faces ORDER BY person, enrolled_at, rowid"

        def select(connection: sqlite3.Connection) -> list[PersonSummary]:
            ids: dict[str, list[str]] = {}
            first: dict[str, int] = {}
            for person, face_id, enrolled_at in connection.execute(query):
                ids.setdefault(person, []).append(face_id)
                first.setdefault(person, enrolled_at)
            return [PersonSummary(person, tuple(ids[person]), from_micros(first[person])) for person in ids]

        return await self._database.read(select)

    async def person(self, person: str) -> PersonSummary | None:
        """Return one person, None where no face of hers or his is enrolled; no other face is read."""

        def select(connection: sqlite3.Connection) -> PersonSummary | None:
            faces = connection.execute(_PERSON, (person,)).fetchall()
            if not faces:
                return None
            return PersonSummary(person, tuple(face_id for face_id, _ in faces), from_micros(faces[0][1]))

        return await self._database.read(select)

    async def delete_face(self, person: str, face_id: str) -> bool:
        """Delete one face and everything kept of it, on the disk too; False if there was none."""

        def change(connection: sqlite3.Connection) -> bool:
            deleted = _delete_faces(connection, "person = ? AND face_id = ?", (person, face_id)) > 0
            if deleted:
                _note_deletion(connection, face_guard(face_id))
            return deleted

        return await self._database.write(change)

    async def delete_person(self, person: str) -> int:
        """Delete everything kept of a person, on the disk too; return how many faces that were."""

        def change(connection: sqlite3.Connection) -> int:
            _note_deletion(connection, person_guard(person))
            return _delete_faces(connection, "person = ?", (person,))

        return await self._database.write(change)


def _version(connection: sqlite3.Connection) -> int:
    (version,) = connection.execute("SELECT version FROM gallery_version").fetchone()
    return int(version)


def _next_version(connection: sqlite3.Connection) -> int:
    connection.execute("UPDATE gallery_version SET version = version + 1")
    return _version(connection)


def _add(connection: sqlite3.Connection, face: EnrolledFace) -> bool:
    """Keep the face and return whether anything of it is new."""
    row = (face.face_id, face.person, to_micros(face.enrolled_at))
    if connection.execute("INSERT OR IGNORE INTO faces VALUES (?, ?, ?)", row).rowcount and face.crop is not None:
        crop = (face.face_id, face.crop.model_dump_json(exclude={"jpeg"}), face.crop.jpeg)
        connection.execute("INSERT INTO crops VALUES (?, ?, ?)", crop)
    (person,) = connection.execute("SELECT person FROM faces WHERE face_id = ?", (face.face_id,)).fetchone()
    if person != face.person:
        detail = f"face {face.face_id} is enrolled for another person: enrol it under a new request id"
        raise GalleryError("face_id_taken", detail)
    return _add_embedding(connection, face)


def _add_embedding(connection: sqlite3.Connection, face: EnrolledFace) -> bool:
    """Keep the face's embedding if the face is there, and return whether it is new."""
    insert = """
        INSERT OR IGNORE INTO embeddings (face_id, embedder, embedding)
        SELECT face_id, ?, ? FROM faces WHERE face_id = ? AND person = ?"""
    return connection.execute(insert, (face.embedder, face.embedding, face.face_id, face.person)).rowcount > 0


def _delete_faces(connection: sqlite3.Connection, where: str, values: Sequence[str]) -> int:
    with erasing(connection):
        deleted = connection.execute(f"DELETE FROM faces WHERE {where}", values).rowcount  # noqa: S608 - fixed clauses
    if deleted:
        _next_version(connection)
    return deleted


def _note_deletion(connection: sqlite3.Connection, guard: str) -> None:
    moment = now()
    connection.execute("DELETE FROM deleted WHERE deleted_at < ?", (to_micros(moment - FORGOTTEN_FOR),))
    connection.execute("INSERT OR REPLACE INTO deleted VALUES (?, ?)", (guard, to_micros(moment)))


def _deletions(connection: sqlite3.Connection, guards: Iterable[str]) -> dict[str, datetime]:
    """Return when what those guards stand for was deleted, where it was."""
    query = "SELECT guard, deleted_at FROM deleted WHERE guard = ?"
    rows = [row for guard in guards for row in connection.execute(query, (guard,))]
    return {guard: from_micros(deleted_at) for guard, deleted_at in rows}


def _face(row: tuple[str, str, str, bytes, int], crop: FaceCrop | None) -> EnrolledFace:
    face_id, person, embedder, embedding, enrolled_at = row
    return EnrolledFace(face_id, person, embedder, embedding, from_micros(enrolled_at), crop)


def _crop(jpeg: bytes, geometry: str) -> FaceCrop:
    return FaceCrop.model_validate({"jpeg": jpeg, **json.loads(geometry)})
