import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from structlog.testing import capture_logs

from facewire.domain.errors import StoreError
from facewire.domain.messages import FaceCrop, now
from facewire.domain.ports import EnrolledFace
from facewire.testing import MemoryGalleryStore
from facewire.vision.imagecodec import encode_jpeg
from facewire.work.gallery_sync import GallerySync
from pipeline_fakes import ColourEmbedder, FaultyGallery, eventually

LANDMARKS = [[30.0, 40.0], [60.0, 40.0], [45.0, 55.0], [34.0, 68.0], [57.0, 68.0]]


def enrolled(person: str, *, colour: tuple[int, int, int] = (200, 10, 10), **fields: Any) -> EnrolledFace:
    picture = np.full((90, 90, 3), colour, np.uint8)
    crop = FaceCrop.model_validate({"jpeg": encode_jpeg(picture), "landmarks": LANDMARKS, "box": [20, 20, 70, 70]})
    face = EnrolledFace(
        face_id=f"face of {person}",
        person=person,
        embedder="colour",
        embedding=np.array([1, 0, 0], "<f4").tobytes(),
        enrolled_at=now(),
        crop=crop,
    )
    return replace(face, **fields)


@asynccontextmanager
async def following(sync: GallerySync, *, poll_seconds: float = 0.01) -> AsyncIterator[None]:
    stop = asyncio.Event()
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        group.create_task(sync.follow(stop, poll_seconds=poll_seconds))
        yield
        stop.set()


async def test_holds_the_faces_of_its_embedder_and_the_version() -> None:
    store = MemoryGalleryStore()
    sync = GallerySync(store, ColourEmbedder())
    assert len(sync.gallery) == 0
    await store.add([enrolled("Ann"), enrolled("Bob", embedder="other", embedding=bytes(512 * 4))])
    await sync.refresh()
    assert sync.gallery.people == ("Ann",)
    assert sync.gallery.version == await store.version()


async def test_an_empty_gallery_has_the_version_of_the_store() -> None:
    store = MemoryGalleryStore()
    await store.add([enrolled("Ann")])
    await store.delete_person("Ann")
    sync = GallerySync(store, ColourEmbedder())
    await sync.refresh()
    assert (len(sync.gallery), sync.gallery.version) == (0, await store.version())
    assert sync.gallery.version > 0


async def test_an_unchanged_store_is_not_read_again() -> None:
    store = MemoryGalleryStore()
    sync = GallerySync(store, ColourEmbedder())
    await sync.refresh()
    before = sync.gallery
    await sync.refresh()
    assert sync.gallery is before


async def test_follows_additions_and_deletions() -> None:
    store = MemoryGalleryStore()
    sync = GallerySync(store, ColourEmbedder())
    async with following(sync):
        await store.add([enrolled("Ann"), enrolled("Bob")])
        await eventually(lambda: sync.gallery.people == ("Ann", "Bob"))
        await store.delete_person("Ann")
        await eventually(lambda: sync.gallery.people == ("Bob",))


async def test_keeps_the_last_snapshot_while_the_store_cannot_be_read() -> None:
    store = FaultyGallery()
    await store.add([enrolled("Ann")])
    sync = GallerySync(store, ColourEmbedder())
    await sync.refresh()
    store.failure = StoreError("locked", "the database is locked")
    async with following(sync):
        await eventually(lambda: store.refusals >= 3)
        assert sync.gallery.people == ("Ann",)
        store.failure = None
        await store.add([enrolled("Bob")])
        await eventually(lambda: sync.gallery.people == ("Ann", "Bob"))


async def test_a_store_that_cannot_be_read_at_the_start_is_an_error() -> None:
    store = FaultyGallery(StoreError("locked", "the database is locked"))
    with pytest.raises(StoreError):
        await GallerySync(store, ColourEmbedder()).refresh()


async def test_an_embedding_of_a_wrong_length_is_left_out() -> None:
    store = MemoryGalleryStore()
    await store.add([enrolled("Ann"), enrolled("Bob", embedding=b"short")])
    sync = GallerySync(store, ColourEmbedder())
    await sync.refresh()
    assert sync.gallery.people == ("Ann",)


@pytest.mark.parametrize("broken", [[np.nan, 0, 0], [1, np.inf, 0], [0, 0, 0], [2, 0, 0], [0.5, 0, 0], [1e30, 0, 0]])
async def test_an_embedding_that_is_not_of_unit_length_is_left_out(broken: list[float]) -> None:
    store = MemoryGalleryStore()
    await store.add([enrolled("Ann"), enrolled("Bob", embedding=np.array(broken, "<f4").tobytes())])
    sync = GallerySync(store, ColourEmbedder())
    with capture_logs() as logs:
        await sync.refresh()
    assert sync.gallery.people == ("Ann",)
    assert [(line["log_level"], line["faces"]) for line in logs] == [("warning", 1)]


async def test_a_change_of_embedder_embeds_the_crops_again_and_keeps_both() -> None:
    store = MemoryGalleryStore()
    red, blue = enrolled("Ann", embedder="old"), enrolled("Bob", embedder="old", colour=(10, 10, 200))
    await store.add([red, blue, enrolled("Imported", embedder="old", crop=None)])
    sync = GallerySync(store, ColourEmbedder("new"))
    assert await sync.embed_again() == 2
    await sync.refresh()
    assert sync.gallery.people == ("Ann", "Bob")
    assert sorted(face.embedder for face in store.enrolled) == ["new", "new", "old", "old", "old"]
    (match,) = sync.gallery.match(np.array([[0, 0, 1]], np.float32), threshold=0.9, margin=0.0)
    assert match.nearest is not None
    assert (match.nearest.person, match.known) == ("Bob", True)


async def test_embedding_again_does_nothing_where_nothing_is_missing() -> None:
    store = MemoryGalleryStore()
    await store.add([enrolled("Ann")])
    embedder = ColourEmbedder()
    assert await GallerySync(store, embedder).embed_again() == 0
    assert embedder.batches == []


async def test_embedding_again_passes_over_a_crop_that_cannot_be_decoded() -> None:
    store = MemoryGalleryStore()
    broken = FaceCrop.model_validate({"jpeg": b"junk", "landmarks": LANDMARKS, "box": [20, 20, 70, 70]})
    await store.add([enrolled("Ann", embedder="old", crop=broken), enrolled("Bob", embedder="old")])
    assert await GallerySync(store, ColourEmbedder("new")).embed_again() == 1


class DeletingEmbedder(ColourEmbedder):
    """Has a person deleted while it embeds."""

    def __init__(self, delete: Callable[[], None]) -> None:
        super().__init__("new")
        self._delete = delete

    def embed(self, faces: NDArray[np.uint8]) -> NDArray[np.float32]:
        self._delete()
        return super().embed(faces)


async def test_a_person_deleted_while_her_crop_is_embedded_stays_deleted() -> None:
    store, loop = MemoryGalleryStore(), asyncio.get_running_loop()
    await store.add([enrolled("Ann", embedder="old"), enrolled("Bob", embedder="old")])

    def delete() -> None:
        assert asyncio.run_coroutine_threadsafe(store.delete_person("Ann"), loop).result(5) == 1

    assert await GallerySync(store, DeletingEmbedder(delete)).embed_again() == 1
    assert {(face.person, face.embedder) for face in store.enrolled} == {("Bob", "old"), ("Bob", "new")}


async def test_many_faces_are_embedded_in_chunks() -> None:
    store = MemoryGalleryStore()
    await store.add([enrolled(f"P{number}", embedder="old") for number in range(70)])
    embedder = ColourEmbedder("new")
    assert await GallerySync(store, embedder).embed_again() == 70
    assert max(embedder.batches) == 32
