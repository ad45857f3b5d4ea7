"""What every gallery store does, whatever keeps the faces."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from dynamodb_tables import dynamodb_table
from facewire.adapters.aws.dynamodb.gallery import DynamoDbGalleryStore
from facewire.adapters.sqlite.database import Database
from facewire.adapters.sqlite.gallery import SqliteGalleryStore
from facewire.domain.errors import GalleryError
from facewire.domain.messages import FaceCrop, now
from facewire.domain.ports import EnrolledFace, GalleryStore, PersonSummary
from facewire.testing import MemoryGalleryStore

NOON = datetime(2026, 11, 22, 12, 0, 0, 123456, tzinfo=UTC)
CROP = FaceCrop(
    jpeg=b"\xff\xd8\xff jpeg",
    landmarks=((1.5, 2.0), (3.0, 2.0), (2.0, 3.0), (1.5, 4.0), (3.0, 4.0)),
    box=(0.5, 1.0, 4.0, 5.0),
)


@asynccontextmanager
async def sqlite_store(request: pytest.FixtureRequest) -> AsyncIterator[GalleryStore]:
    async with Database.open(request.getfixturevalue("tmp_path") / "facewire.db") as database:
        yield SqliteGalleryStore(database)


@asynccontextmanager
async def memory_store(_request: pytest.FixtureRequest) -> AsyncIterator[GalleryStore]:
    yield MemoryGalleryStore()


@asynccontextmanager
async def dynamodb_store(request: pytest.FixtureRequest) -> AsyncIterator[GalleryStore]:
    async with dynamodb_table(request.getfixturevalue("aws_environment")) as table:
        yield DynamoDbGalleryStore(table)


BACKENDS: dict[str, Callable[[pytest.FixtureRequest], AbstractAsyncContextManager[GalleryStore]]] = {
    "memory": memory_store,
    "sqlite": sqlite_store,
    "dynamodb": dynamodb_store,
}


@pytest.fixture(params=sorted(BACKENDS))
async def store(request: pytest.FixtureRequest) -> AsyncIterator[GalleryStore]:
    async with BACKENDS[request.param](request) as store:
        yield store


def face(face_id: str, person: str = "Ada", *, minute: int = 0, crop: FaceCrop | None = CROP) -> EnrolledFace:
    moment = NOON + timedelta(minutes=minute)
    return EnrolledFace(face_id, person, "dlib-resnet29", face_id.encode() * 256, moment, crop)


def asked_before(face: EnrolledFace) -> EnrolledFace:
    """Return the face as one that was asked for before anything that a test deletes."""
    return replace(face, enrolled_at=now() - timedelta(hours=1))


def asked_now(face: EnrolledFace) -> EnrolledFace:
    return replace(face, enrolled_at=now())


def without_crop(*faces: EnrolledFace) -> list[EnrolledFace]:
    return [replace(face, crop=None) for face in faces]


async def test_an_empty_gallery(store: GalleryStore) -> None:
    assert await store.version() == 0
    assert await store.faces() == (0, [])
    assert await store.crops() == []
    assert await store.people() == []
    assert await store.person("Ada") is None


async def test_faces_come_back_as_added(store: GalleryStore) -> None:
    first, second, imported = face("f1"), face("f2", "Grace", minute=1), face("f3", minute=2, crop=None)
    version = await store.add([first, second, imported])

    assert version >= 1
    assert await store.version() == version
    assert await store.faces() == (version, without_crop(first, second, imported))
    assert await store.crops() == [first, second]


async def test_a_crop_without_landmarks_comes_back_so(store: GalleryStore) -> None:
    added = face("f1", crop=FaceCrop(jpeg=b"jpeg", landmarks=None))
    await store.add([added])
    assert await store.crops() == [added]


async def test_a_face_added_twice_is_there_once_and_changes_nothing(store: GalleryStore) -> None:
    version = await store.add([face("f1")])
    again = replace(face("f1", minute=5), embedding=b"other")
    assert await store.add([again]) == version
    assert await store.faces() == (version, without_crop(face("f1")))


async def test_a_face_of_another_person_is_refused_with_all_that_came_with_it(store: GalleryStore) -> None:
    version = await store.add([face("f1")])
    with pytest.raises(GalleryError, match="face_id_taken"):
        await store.add([face("f2", "Grace"), face("f1", "Grace")])
    assert await store.faces() == (version, without_crop(face("f1")))


async def test_a_face_embedded_again_is_one_face_with_two_embeddings(store: GalleryStore) -> None:
    version = await store.add([face("f1")])
    other = replace(face("f1"), embedder="sface", embedding=b"sface")
    assert await store.add([other]) > version

    assert (await store.faces("sface"))[1] == without_crop(other)
    assert (await store.faces("dlib-resnet29"))[1] == without_crop(face("f1"))
    assert len((await store.faces())[1]) == 2
    assert await store.crops() == [face("f1")]
    assert await store.people() == [PersonSummary("Ada", ("f1",), NOON)]


async def test_an_embedding_is_added_to_a_face_that_is_there(store: GalleryStore) -> None:
    version = await store.add([face("f1"), face("f2")])
    more = [replace(face(name), embedder="sface", embedding=b"sface") for name in ("f1", "f2")]
    assert await store.add_embeddings(more) == 2
    assert await store.version() > version
    assert (await store.faces("sface"))[1] == without_crop(*more)


async def test_a_known_embedding_stays_as_it_is(store: GalleryStore) -> None:
    version = await store.add([face("f1")])
    assert await store.add_embeddings([replace(face("f1"), embedding=b"other")]) == 0
    assert await store.faces() == (version, without_crop(face("f1")))


async def test_an_embedding_does_not_bring_a_deleted_face_back(store: GalleryStore) -> None:
    await store.add([face("f1"), face("f2", "Grace")])
    await store.delete_person("Ada")
    version = await store.add([face("f2", "Grace")])
    late = [face("f1"), replace(face("f1"), embedder="sface"), replace(face("f2", "Ada"), embedder="sface")]
    assert await store.add_embeddings(late) == 0
    assert await store.faces() == (version, without_crop(face("f2", "Grace")))
    assert await store.crops() == [face("f2", "Grace")]


async def test_faces_of_an_embedder_nobody_used(store: GalleryStore) -> None:
    version = await store.add([face("f1")])
    assert await store.faces("sface") == (version, [])


async def test_people_come_by_name_with_their_faces_oldest_first(store: GalleryStore) -> None:
    await store.add([face("g", "Grace", minute=1), face("a2", minute=3), face("a1", minute=2)])
    assert await store.people() == [
        PersonSummary("Ada", ("a1", "a2"), NOON + timedelta(minutes=2)),
        PersonSummary("Grace", ("g",), NOON + timedelta(minutes=1)),
    ]


async def test_one_person_comes_with_the_ids_of_the_faces_oldest_first(store: GalleryStore) -> None:
    await store.add([face("g", "Grace", minute=1), face("a2", minute=3), face("a1", minute=2)])
    assert await store.person("Ada") == PersonSummary("Ada", ("a1", "a2"), NOON + timedelta(minutes=2))
    assert await store.person("ada") is None
    await store.delete_person("Ada")
    assert await store.person("Ada") is None


async def test_names_are_told_apart_by_every_character(store: GalleryStore) -> None:
    composed, decomposed = "Jos\u00e9", "Jose\u0301"
    await store.add(
        [face("1", composed), face("2", decomposed), face("3", "jos\u00e9"), face("4", "'; DROP TABLE faces")]
    )
    assert len(await store.people()) == 4
    assert await store.delete_person(composed) == 1
    assert len(await store.people()) == 3


async def test_a_deleted_face_is_gone(store: GalleryStore) -> None:
    version = await store.add([face("f1"), face("f2")])
    assert await store.delete_face("Ada", "f1") is True
    assert await store.version() > version
    assert (await store.faces())[1] == without_crop(face("f2"))
    assert await store.crops() == [face("f2")]


async def test_deleting_what_is_not_there_changes_nothing(store: GalleryStore) -> None:
    version = await store.add([face("f1")])
    assert await store.delete_face("Ada", "f2") is False
    assert await store.delete_face("Grace", "f1") is False
    assert await store.version() == version
    assert await store.delete_person("Grace") == 0
    assert await store.add([asked_before(face("f1"))]) == await store.version()
    assert (await store.faces())[1] == without_crop(face("f1"))


async def test_a_deleted_person_is_gone_with_every_face(store: GalleryStore) -> None:
    version = await store.add([face("f1"), face("f2"), face("g", "Grace")])
    await store.add([replace(face("f1"), embedder="sface", embedding=b"sface")])
    assert await store.delete_person("Ada") == 2
    assert await store.version() > version
    assert (await store.faces())[1] == without_crop(face("g", "Grace"))
    assert await store.crops() == [face("g", "Grace")]
    assert [summary.person for summary in await store.people()] == ["Grace"]


async def test_a_deleted_face_can_be_enrolled_again(store: GalleryStore) -> None:
    await store.add([face("f1")])
    await store.delete_person("Ada")
    await store.add([face("f1", "Grace")])
    assert await store.crops() == [face("f1", "Grace")]


async def test_an_enrolment_asked_for_before_its_person_was_deleted_brings_nobody_back(store: GalleryStore) -> None:
    enrolled, still_under_way = asked_before(face("f1")), asked_before(face("f2"))
    await store.add([enrolled])
    await store.delete_person("Ada")
    for late in (enrolled, still_under_way):
        with pytest.raises(GalleryError, match="deleted"):
            await store.add([asked_before(face("g", "Grace")), late])
    assert await store.people() == []

    anew = asked_now(face("f1"))
    await store.add([anew, asked_before(face("g", "Grace"))])
    assert [summary.person for summary in await store.people()] == ["Ada", "Grace"]
    with pytest.raises(GalleryError, match="deleted"):
        await store.add([still_under_way])


async def test_an_enrolment_under_way_does_not_outlive_the_deletion_of_its_unknown_person(store: GalleryStore) -> None:
    assert await store.delete_person("Ada") == 0
    with pytest.raises(GalleryError, match="deleted"):
        await store.add([asked_before(face("f1"))])


async def test_a_deleted_face_does_not_come_back_with_a_redelivered_enrolment(store: GalleryStore) -> None:
    first, second, third = (asked_before(face(name)) for name in ("f1", "f2", "f3"))
    await store.add([first, second])
    await store.delete_face("Ada", "f1")
    with pytest.raises(GalleryError, match="deleted"):
        await store.add([first])
    await store.add([third])
    assert await store.people() == [PersonSummary("Ada", ("f2", "f3"), second.enrolled_at)]
    await store.add([asked_now(first)])
    assert sorted(found.face_id for found in await store.crops()) == ["f1", "f2", "f3"]


async def test_a_face_of_somebody_else_is_not_guarded_by_a_deletion_that_did_nothing(store: GalleryStore) -> None:
    assert await store.delete_face("Grace", "f1") is False
    await store.add([asked_before(face("f1"))])
    assert [summary.person for summary in await store.people()] == ["Ada"]
