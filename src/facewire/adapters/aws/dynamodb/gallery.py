"""The gallery in a DynamoDB table: faces, their embeddings and enrolment crops, each an item of its own.

Faces are spread over a few partitions, so that loading them all is not held up by the 3,000 read units a second that
one partition gives. Whatever changes, the version changes in the same transaction, and for an hour it is known which
faces a change was about, by their ids alone: who has loaded the gallery reads no more than those.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from itertools import islice
from typing import TypeVar

from facewire.adapters.aws.dynamodb.faces import (
    FACES,
    SHARDS,
    VECTORS,
    additions,
    age,
    crops_of,
    deletions,
    face_key,
    face_of,
    guard_key,
    people_of,
    put_guard,
)
from facewire.adapters.aws.dynamodb.items import Item, Key, Value, Write
from facewire.adapters.aws.dynamodb.loading import VERSION, Loader, Version
from facewire.adapters.aws.dynamodb.table import Table, together
from facewire.domain.deletions import check_not_deleted, face_guard, guards_of, person_guard
from facewire.domain.errors import GalleryError, StoreError
from facewire.domain.ports import EnrolledFace, GalleryStore, PersonSummary
from facewire.runtime.backoff import growing_pauses

A = TypeVar("A")
#: The writes for each face that changes, by its id.
_Plan = dict[str, list[Write]]

#: How often a change is tried anew because others have changed the gallery meanwhile.
ATTEMPTS = 20
#: What one transaction writes. It may have 4 MB, but aiohttp sends a body of up to 1 MiB, in base64, without blocking.
TRANSACTION_BYTES = 700_000
#: What an item counts at least: a transaction takes 100 items, two of them for the version.
ITEM_BYTES = 7_200
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.02, 0.5


class DynamoDbGalleryStore(GalleryStore):
    """Enrolled faces in `table`. Names are compared as they are, code point by code point."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._loader = Loader(table, self._items)

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
        if embedder is not None:
            return await self._loader.faces(embedder)
        version = await self.version()
        return version, sorted(map(face_of, await self._items(VECTORS)), key=age)

    async def crops(self) -> list[EnrolledFace]:
        """Return each face that has a crop once, with it and its first embedding, oldest first."""
        return sorted(crops_of(await self._items(None)), key=age)

    async def people(self) -> list[PersonSummary]:
        """Return everybody enrolled, by name; `enrolled_at` is that of the first face."""
        return people_of(await self._items(FACES))

    async def person(self, person: str) -> PersonSummary | None:
        """Return one person, None where no face of hers or his is enrolled; DynamoDB leaves the other faces out."""
        people = people_of(await self._faces_of(person))
        return people[0] if people else None

    async def delete_face(self, person: str, face_id: str) -> bool:
        """Delete one face and everything kept of it; False if there was none."""
        return await self._change(partial(self._plan_to_delete_face, person, face_id)) > 0

    async def delete_person(self, person: str) -> int:
        """Delete everything kept of a person; return how many faces that were."""
        # A change of its own: an enrolment under way is either among the items below or meets the guard.
        await self._change(partial(self._plan_to_delete, person, []), guards=[put_guard(person_guard(person))])
        items = await self._faces_of(person)
        batches = [[Key.of(item) for item in batch] for batch in _batches(items, deletions)]
        return sum([await self._change(partial(self._plan_to_delete, person, keys)) for keys in batches])

    async def _items(
        self, kind: str | None, *, only: str | None = None, values: Mapping[str, Value] | None = None
    ) -> list[Item]:
        """Return the items of that kind of all faces, or the items of every kind."""
        condition = "#pk = :pk" if kind is None else "#pk = :pk AND begins_with(#sk, :kind)"
        bound = {**(values or {}), **({} if kind is None else {"kind": kind})}

        async def of_shard(shard: str) -> list[Item]:
            pages = self._table.query(condition, {"pk": shard, **bound}, only=only)
            return [item async for page in pages for item in page]

        return [item for items in await together(of_shard, SHARDS) for item in items]

    async def _faces_of(self, person: str) -> list[Item]:
        return await self._items(FACES, only="#person = :person", values={"person": person})

    async def _version(self) -> Version:
        return Version.of(await self._table.get(VERSION))

    async def _known(self, faces: Iterable[EnrolledFace]) -> dict[Key, Item]:
        return await self._table.get_many(face_key(face.face_id) for face in faces)

    async def _checked(self, faces: Sequence[EnrolledFace]) -> dict[Key, Item]:
        """Return those of the faces that are there; GalleryError where one is another person's or was deleted since."""
        known = await self._known(faces)
        _check_owners(faces, known)
        guards = await self._table.get_many(map(guard_key, guards_of(faces)))
        check_not_deleted(faces, {key.sk: datetime.fromisoformat(item["deleted_at"]) for key, item in guards.items()})
        return known

    async def _change(self, plan: Callable[[], Awaitable[_Plan]], *, guards: Sequence[Write] = ()) -> int:
        """Do what is planned, and count it as a change, in one transaction; return how many faces it changed.

        The `guards` are written with it, even if nothing else is. Where others were faster it is planned anew.
        """
        for pause in islice(growing_pauses(_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS), ATTEMPTS):
            version = await self._version()
            planned = await plan()
            if not planned and not guards:
                return 0
            changes = [*guards, *(write for writes in planned.values() for write in writes)]
            if await self._table.transact([*changes, *version.next(secrets.token_hex(6), list(planned))]):
                return len(planned)
            await asyncio.sleep(pause)
        raise StoreError("busy", f"the gallery was changed by others {ATTEMPTS} times in a row: try again")

    async def _plan_to_add(self, faces: Sequence[EnrolledFace]) -> _Plan:
        known = await self._checked(faces)
        return _some((face.face_id, additions(face, known.get(face_key(face.face_id)))) for face in faces)

    async def _plan_embeddings(self, faces: Sequence[EnrolledFace]) -> _Plan:
        known = await self._known(faces)
        there = [(face, known.get(face_key(face.face_id))) for face in faces]
        owned = [(face, item) for face, item in there if item and item["person"] == face.person]
        return _some((face.face_id, additions(face, item)) for face, item in owned)

    async def _plan_to_delete(self, person: str, keys: Sequence[Key]) -> _Plan:
        items = await self._table.get_many(keys)
        return {item["face_id"]: deletions(item) for item in items.values() if item["person"] == person}

    async def _plan_to_delete_face(self, person: str, face_id: str) -> _Plan:
        planned = await self._plan_to_delete(person, [face_key(face_id)])
        return {name: [*writes, put_guard(face_guard(name))] for name, writes in planned.items()}


def _check_owners(faces: Sequence[EnrolledFace], known: Mapping[Key, Item]) -> None:
    """Raise GalleryError where a face is another person's, in the table or among `faces` themselves."""
    owners = {key: item["person"] for key, item in known.items()}
    for face in faces:
        if owners.setdefault(face_key(face.face_id), face.person) != face.person:
            detail = f"face {face.face_id} is enrolled for another person: enrol it under a new request id"
            raise GalleryError("face_id_taken", detail)


def _some(parts: Iterable[tuple[str, list[Write]]]) -> _Plan:
    return {face_id: writes for face_id, writes in parts if writes}


def _batches(faces: Iterable[A], writes_of: Callable[[A], Sequence[Write]]) -> Iterator[list[A]]:
    """Split the faces into parts that one transaction can take."""
    batch: list[A] = []
    left = TRANSACTION_BYTES
    for face in faces:
        size = sum(max(ITEM_BYTES, write.size) for write in writes_of(face))
        if batch and size > left:
            yield batch
            batch, left = [], TRANSACTION_BYTES
        batch.append(face)
        left -= size
    if batch:
        yield batch


def _transactions(faces: Sequence[EnrolledFace]) -> Iterator[list[EnrolledFace]]:
    """Split the faces into parts that one transaction can take: in each a face is there once."""
    return (batch for once in _rounds(faces) for batch in _batches(once, additions))


def _rounds(faces: Sequence[EnrolledFace]) -> Iterator[Collection[EnrolledFace]]:
    """Split the faces into rounds in which each face is there once: two embeddings of it are two changes."""
    rounds: list[dict[str, EnrolledFace]] = []
    for face in faces:
        fitting = next((known for known in rounds if face.face_id not in known), None)
        if fitting is None:
            fitting = {}
            rounds.append(fitting)
        fitting[face.face_id] = face
    yield from (known.values() for known in rounds)
