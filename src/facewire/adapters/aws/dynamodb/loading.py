"""Loading the gallery from the DynamoDB table: all of it once, and then what has changed since."""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from facewire.adapters.aws.dynamodb.faces import age, face_of, vector_key, vectors
from facewire.adapters.aws.dynamodb.items import Item, Key, Value, Write
from facewire.adapters.aws.dynamodb.schema import CHANGES, GALLERY, TTL
from facewire.adapters.aws.dynamodb.table import Table
from facewire.domain.messages import now
from facewire.domain.ports import EnrolledFace

VERSION = Key(GALLERY, "version")
#: Further behind than this all faces are loaded anew: about as many reads.
MAX_CHANGES = 100

#: How long it is known which faces a change was about; whoever looks less often loads all of them.
_CHANGES_KEPT = timedelta(hours=1)
_COUNT = "SET #version = :next, #token = if_not_exists(#token, :token)"


@dataclass(frozen=True, slots=True)
class Version:
    """The number of the gallery's latest change; `token` tells a table from one that was made anew under its name."""

    number: int
    token: str

    @classmethod
    def of(cls, item: Item | None) -> "Version":
        """Return the version in its item; an empty gallery has none."""
        return cls(0, "") if item is None else cls(item["version"], item["token"])

    def next(self, token: str, face_ids: Sequence[str]) -> list[Write]:
        """Return what counts one more change, that of those faces, if nobody else has counted one meanwhile."""
        number = self.number + 1
        condition = "#version = :version" if self.number else "attribute_not_exists(#pk)"
        values: dict[str, Value] = {"next": number, "token": token}
        if self.number:
            values["version"] = self.number
        expires_at = int((now() + _CHANGES_KEPT).timestamp())
        change = {"pk": CHANGES, "sk": _change(number), "faces": face_ids, TTL: expires_at}
        return [Write.update(VERSION, _COUNT, condition=condition, values=values), Write.put(change)]


@dataclass(slots=True)
class _Loaded:
    version: Version
    faces: dict[str, EnrolledFace]


class Loader:
    """Keeps the faces of each embedder that is asked for, and reads only what has changed since the last time.

    `load_all` returns the items of all faces of which the sort key starts so.
    """

    def __init__(self, table: Table, load_all: Callable[[str], Coroutine[Any, Any, Iterable[Item]]]) -> None:
        self._table = table
        self._load_all = load_all
        self._loaded: dict[str, _Loaded] = {}
        self._loading = asyncio.Lock()

    async def faces(self, embedder: str) -> tuple[int, list[EnrolledFace]]:
        """Return the version and the faces, oldest first."""
        async with self._loading:
            version = Version.of(await self._table.get(VERSION))
            loaded = self._loaded.get(embedder)
            changed = None if loaded is None else await self._changed(loaded.version, version)
            if loaded is None or changed is None:
                faces = {item["face_id"]: face_of(item) for item in await self._load_all(vectors(embedder))}
                loaded = self._loaded[embedder] = _Loaded(version, faces)
            else:
                await self._bring_up(loaded, embedder, changed)
                loaded.version = version
            return version.number, sorted(loaded.faces.values(), key=age)

    async def _changed(self, old: Version, new: Version) -> set[str] | None:
        """Return the ids of the faces that have changed in between, None where that is not known."""
        steps = new.number - old.number
        if old.token != new.token or not 0 <= steps <= MAX_CHANGES:
            return None
        if steps == 0:
            return set()
        values = {"pk": CHANGES, "first": _change(old.number + 1), "last": _change(new.number)}
        pages = self._table.query("#pk = :pk AND #sk BETWEEN :first AND :last", values)
        changes = [change async for page in pages for change in page]
        return {face_id for change in changes for face_id in change["faces"]} if len(changes) == steps else None

    async def _bring_up(self, loaded: _Loaded, embedder: str, face_ids: Iterable[str]) -> None:
        keys = {face_id: vector_key(face_id, embedder) for face_id in face_ids}
        items = await self._table.get_many(keys.values())
        for face_id, key in keys.items():
            if key in items:
                loaded.faces[face_id] = face_of(items[key])
            else:
                loaded.faces.pop(face_id, None)


def _change(number: int) -> str:
    return f"{number:012}"
