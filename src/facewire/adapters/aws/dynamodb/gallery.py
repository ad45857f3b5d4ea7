"""The gallery in a DynamoDB table: faces, their embeddings and enrolment crops, each an item of its own.

Whatever changes, an atomic counter is raised in the same transaction, and the ids of the latest faces stand beside it:
a recognizer that has loaded the gallery reads no more than those. Changes do not look at what the counter was, so any
number of enrolments at once succeed, one after the other.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import TypeVar

from facewire.adapters.aws.dynamodb.faces import (
    DELETED,
    FACES,
    SHARDS,
    VECTORS,
    additions,
    crops_of,
    deletions,
    face_key,
    face_of,
    guard_checks,
    people_of,
    put_guard,
    vectors,
)
from facewire.adapters.aws.dynamodb.items import Item, Key, Write
from facewire.adapters.aws.dynamodb.table import Table, together
from facewire.domain.deletions import check_not_deleted, face_guard, guards_of, person_guard
from facewire.domain.errors import GalleryError, StoreError
from facewire.domain.ports import EnrolledFace, GalleryStore, PersonSummary

A = TypeVar("A")
#: The ids of the faces that change, and the writes for it.
_Plan = tuple[list[str], list[Write]]

VERSION = Key("#gallery", "version")
#: Ids of changed faces that stand beside the version; who is further behind loads all faces, about as many reads.
RECENT = 100
#: What one transaction writes. It may have 4 MB, but aiohttp sends a body of up to 1 MiB, in base64, without blocking.
TRANSACTION_BYTES = 700_000
#: What an item counts at least: a transaction takes 100 items, one of them for the version.
ITEM_BYTES = 7_200
#: Beside a face two guards are looked at.
_GUARDS_BYTES = 2 * ITEM_BYTES
_COUNT = """
    ADD #version :count, #counted :count
    SET #recent = list_append(if_not_exists(#recent, :none), :ids), #token = if_not_exists(#token, :token)"""


@dataclass(frozen=True, slots=True)
class _Version:
    """`history` tells the counter from that of a table made anew, or raised by a version that notes no faces."""

    number: int
    history: str
    recent: Sequence[str]

    @classmethod
    def of(cls, item: Item | None) -> "_Version":
        if item is None:
            return cls(0, "", ())
        number = item["version"]
        return cls(number, f"{item['token']} {number - item.get('counted', 0)}", item.get("recent", ()))

    def changed_since(self, other: "_Version") -> set[str] | None:
        """Return the ids of the faces that have changed, None where that is not known."""
        steps = self.number - other.number
        if self.history != other.history or not 0 <= steps <= len(self.recent):
            return None
        return set(self.recent[len(self.recent) - steps :])


class DynamoDbGalleryStore(GalleryStore):
    """Enrolled faces in `table`. Names are compared as they are, code point by code point."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._loaded: dict[str, tuple[_Version, dict[str, EnrolledFace]]] = {}
        self._loading = asyncio.Lock()

    async def version(self) -> int:
        """Return the number of the latest change."""
        return (await self._version()).number

    async def add(self, faces: Sequence[EnrolledFace]) -> int:
        """Keep the faces and return the version.

        A known face gets the embedding of a further embedder; all else of it stays. GalleryError `face_id_taken`
        where it is another person's, `deleted` where it or its person was deleted after it was asked for; then none of
        `faces` is kept. More faces than one transaction takes, some fifteen, are kept in several: where one fails,
        those before it stay.
        """
        batches = list(_transactions(faces))
        await self._checked(faces)
        for batch in batches:
            await self._change(partial(self._plan_to_add, batch))
        return await self.version()

    async def add_embeddings(self, faces: Sequence[EnrolledFace]) -> int:
        """Keep the embeddings of those faces that are there and of that person; return how many were new."""
        return sum([await self._change(partial(self._plan_embeddings, batch)) for batch in _transactions(faces)])

    async def faces(self, embedder: str | None = None) -> tuple[int, list[EnrolledFace]]:
        """Return the version and all faces, or those of one embedder, oldest first, crops left out.

        Those of an embedder are kept in memory, and only what has changed is read when they are asked for again.
        Faces that are added or deleted meanwhile may be there or not: the version then is an older one.
        """
        if embedder is None:
            version = await self.version()
            return version, sorted(map(face_of, await self._items(VECTORS)), key=_age)
        async with self._loading:
            latest = await self._version()
            loaded, faces = self._loaded.get(embedder, (None, {}))
            changed = None if loaded is None else latest.changed_since(loaded)
            if changed is None:
                faces = {item["face_id"]: face_of(item) for item in await self._items(vectors(embedder))}
            else:
                await self._bring_up(faces, embedder, changed)
            self._loaded[embedder] = (latest, faces)
            return latest.number, sorted(faces.values(), key=_age)

    async def crops(self) -> list[EnrolledFace]:
        """Return each face that has a crop once, with it and its first embedding, oldest first."""
        return sorted(crops_of({Key.of(item): item for item in await self._items("")}), key=_age)

    async def people(self) -> list[PersonSummary]:
        """Return everybody enrolled, by name; `enrolled_at` is that of the first face."""
        return people_of(await self._items(FACES))

    async def person(self, person: str) -> PersonSummary | None:
        """Return one person, None where nobody of that name is enrolled; embeddings and crops are not read."""
        return next(iter(people_of(await self._items(FACES, person=person))), None)

    async def delete_face(self, person: str, face_id: str) -> bool:
        """Delete one face and everything kept of it; False if there was none."""
        guards = [put_guard(face_guard(face_id))]
        return await self._change(partial(self._plan_to_delete, person, [face_key(face_id)], guards)) > 0

    async def delete_person(self, person: str) -> int:
        """Delete everything kept of a person; return how many faces that were."""

        async def guard() -> _Plan:  # first: an enrolment under way is either among the items below or meets it
            return [], [put_guard(person_guard(person))]

        await self._change(guard)
        items = await self._items(FACES, person=person)
        batches = _batches(items, lambda item: item["face_id"], deletions)
        plans = [partial(self._plan_to_delete, person, [Key.of(item) for item in batch], []) for batch in batches]
        return sum([await self._change(plan) for plan in plans])

    async def _items(self, kind: str, *, person: str | None = None) -> list[Item]:
        """Return the items of all faces, or of those of a person, of which the sort key starts so."""
        of_person = {} if person is None else {"person": person}
        only = None if person is None else "#person = :person"
        condition = "#pk = :pk AND begins_with(#sk, :kind)" if kind else "#pk = :pk"
        of_kind = {"kind": kind} if kind else {}

        async def of_shard(shard: str) -> list[Item]:
            pages = self._table.query(condition, {"pk": shard, **of_kind, **of_person}, only=only)
            return [item async for page in pages for item in page]

        return [item for items in await together(of_shard, SHARDS) for item in items]

    async def _version(self) -> _Version:
        return _Version.of(await self._table.get(VERSION))

    async def _bring_up(self, faces: dict[str, EnrolledFace], embedder: str, changed: Iterable[str]) -> None:
        keys = {face_id: face_key(face_id, vectors(embedder)) for face_id in changed}
        items = await self._table.get_many(keys.values())
        for face_id, key in keys.items():
            faces.pop(face_id, None)
            if key in items:
                faces[face_id] = face_of(items[key])

    async def _known(self, faces: Iterable[EnrolledFace]) -> dict[Key, Item]:
        return await self._table.get_many(face_key(face.face_id) for face in faces)

    async def _checked(self, faces: Sequence[EnrolledFace]) -> dict[Key, Item]:
        """Return those of the faces that are there; GalleryError where one is another person's or was deleted since."""
        known = await self._known(faces)
        _check_owners(faces, known)
        guards = await self._table.get_many(Key(DELETED, guard) for guard in guards_of(faces))
        check_not_deleted(faces, {key.sk: datetime.fromisoformat(item["deleted_at"]) for key, item in guards.items()})
        return known

    async def _change(self, plan: Callable[[], Awaitable[_Plan]]) -> int:
        """Do what is planned, and count the faces it changes, in one transaction; return how many they are.

        Where others change the same at the same moment it is planned anew.
        """
        async for _ in self._table.attempts(StoreError("busy", "the gallery is being changed by others: try again")):
            face_ids, writes = await plan()
            if not writes:
                return 0
            if await self._table.write([*writes, *_counted(face_ids)]):
                await self._shorten(await self._version())
                return len(face_ids)
        return 0

    async def _shorten(self, version: _Version) -> None:
        """Leave the latest ids beside the version, unless it has been raised meanwhile: then others do."""
        if len(version.recent) > 2 * RECENT:
            values = {"version": version.number, "latest": version.recent[-RECENT:]}
            shorten = Write.update(VERSION, "SET #recent = :latest", condition="#version = :version", values=values)
            await self._table.write([shorten])

    async def _plan_to_add(self, faces: Sequence[EnrolledFace]) -> _Plan:
        known = await self._checked(faces)
        face_ids, writes = _plan((face, known.get(face_key(face.face_id))) for face in faces)
        return face_ids, [*writes, *guard_checks(face for face in faces if face.face_id in face_ids)]

    async def _plan_embeddings(self, faces: Sequence[EnrolledFace]) -> _Plan:
        known = await self._known(faces)
        there = [(face, known.get(face_key(face.face_id))) for face in faces]
        return _plan((face, item) for face, item in there if item and item["person"] == face.person)

    async def _plan_to_delete(self, person: str, keys: Sequence[Key], guards: Sequence[Write]) -> _Plan:
        items = [item for item in (await self._table.get_many(keys)).values() if item["person"] == person]
        writes = [write for item in items for write in (*deletions(item), *guards)]
        return [item["face_id"] for item in items], writes


def _plan(faces: Iterable[tuple[EnrolledFace, Item | None]]) -> _Plan:
    planned = {face.face_id: writes for face, known in faces if (writes := additions(face, known))}
    return list(planned), [write for writes in planned.values() for write in writes]


def _counted(face_ids: Sequence[str]) -> list[Write]:
    """Return what raises the version by one for each face; nothing for none."""
    values = {"count": len(face_ids), "none": [], "ids": face_ids, "token": secrets.token_hex(6)}
    return [Write.update(VERSION, _COUNT, values=values)] if face_ids else []


def _check_owners(faces: Sequence[EnrolledFace], known: Mapping[Key, Item]) -> None:
    """Raise GalleryError where a face is another person's, in the table or among `faces` themselves."""
    owners = {key: item["person"] for key, item in known.items()}
    for face in faces:
        if owners.setdefault(face_key(face.face_id), face.person) != face.person:
            detail = f"face {face.face_id} is enrolled for another person: enrol it under a new request id"
            raise GalleryError("face_id_taken", detail)


def _transactions(faces: Sequence[EnrolledFace]) -> Iterator[list[EnrolledFace]]:
    return _batches(faces, lambda face: face.face_id, additions)


def _batches(
    faces: Iterable[A], face_id: Callable[[A], str], writes_of: Callable[[A], Sequence[Write]]
) -> Iterator[list[A]]:
    """Split the faces into parts that one transaction can take: in each a face is there once."""
    batch: dict[str, A] = {}
    left = TRANSACTION_BYTES
    for face in faces:
        size = _GUARDS_BYTES + sum(max(ITEM_BYTES, write.size) for write in writes_of(face))
        if batch and (size > left or face_id(face) in batch):
            yield list(batch.values())
            batch, left = {}, TRANSACTION_BYTES
        batch[face_id(face)] = face
        left -= size
    if batch:
        yield list(batch.values())


def _age(face: EnrolledFace) -> tuple[datetime, str, str]:
    return face.enrolled_at, face.face_id, face.embedder
