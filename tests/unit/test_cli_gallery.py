"""Galleries in and out of the database of a data folder."""

import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from facewire.adapters.gallery_file import GalleryRows, read_gallery, write_gallery
from facewire.adapters.sqlite.database import Database
from facewire.adapters.sqlite.gallery import SqliteGalleryStore
from facewire.domain.errors import GalleryError, SettingsError
from facewire_standalone.commands.gallery import enrolled_faces, export_gallery, import_gallery, list_people
from facewire_standalone.settings import StandaloneSettings

EMBEDDER = "dlib-resnet29"


def rows(*names: str) -> GalleryRows:
    random = np.random.default_rng(7)
    vectors = random.normal(size=(len(names), 128)).astype(np.float32)
    return GalleryRows(EMBEDDER, names, vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


@pytest.fixture
def settings(tmp_path: Path) -> StandaloneSettings:
    return StandaloneSettings.read(data_dir=tmp_path / "data", embedder=EMBEDDER)


@pytest.fixture
def console() -> Console:
    return Console(width=160, record=True, file=io.StringIO())


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "people.npz"
    write_gallery(path, rows("[red]Ada", "Bob", "Bob"))
    return path


async def test_what_is_imported_comes_out_again(
    settings: StandaloneSettings, console: Console, archive: Path, tmp_path: Path
) -> None:
    await import_gallery(archive, settings, None, console)
    await export_gallery(tmp_path / "out.npz", settings, console)
    exported, imported = read_gallery(tmp_path / "out.npz"), read_gallery(archive)
    assert sorted(exported.names) == sorted(imported.names)
    order = [int(np.argmax(imported.embeddings @ row)) for row in exported.embeddings]
    assert sorted(order) == [0, 1, 2]
    np.testing.assert_allclose(exported.embeddings, imported.embeddings[order], atol=1e-6)
    assert exported.embedder == EMBEDDER
    assert "3 faces of 2 people imported" in console.export_text()


async def test_the_same_file_twice_adds_nothing(settings: StandaloneSettings, console: Console, archive: Path) -> None:
    await import_gallery(archive, settings, None, console)
    await import_gallery(archive, settings, None, console)
    async with Database.open(settings.database_file) as database:
        _, faces = await SqliteGalleryStore(database).faces()
    assert len(faces) == 3


def test_equal_rows_stay_separate_faces() -> None:
    one = rows("Ada")
    twice = GalleryRows(EMBEDDER, ("Ada", "Ada"), np.concatenate([one.embeddings, one.embeddings]))
    assert len({face.face_id for face in enrolled_faces(twice)}) == 2


async def test_faces_of_another_embedder_come_with_a_hint(tmp_path: Path, console: Console, archive: Path) -> None:
    settings = StandaloneSettings.read(data_dir=tmp_path / "data", embedder="sface")
    await import_gallery(archive, settings, None, console)
    assert f"--embedder {EMBEDDER}" in console.export_text()
    with pytest.raises(SettingsError, match="no faces of embedder sface"):
        await export_gallery(tmp_path / "out.npz", settings, console)


async def test_people_are_listed_with_their_faces(
    settings: StandaloneSettings, console: Console, archive: Path
) -> None:
    await import_gallery(archive, settings, None, console)
    console.export_text()
    await list_people(settings, console)
    shown = console.export_text()
    assert "[red]Ada" in shown
    assert f"{EMBEDDER}: 2" in shown


async def test_a_folder_without_a_gallery_is_left_alone(settings: StandaloneSettings, console: Console) -> None:
    with pytest.raises(SettingsError, match="holds no gallery"):
        await list_people(settings, console)
    assert not settings.data_dir.exists()


async def test_a_bad_file_leaves_no_database(settings: StandaloneSettings, console: Console, tmp_path: Path) -> None:
    (tmp_path / "bad.pt").write_bytes(b"neither torch nor numpy")
    with pytest.raises(GalleryError):
        await import_gallery(tmp_path / "bad.pt", settings, None, console)
    assert not settings.data_dir.exists()


@pytest.mark.parametrize(
    "content", [("eight_people.pt", 79, 8), ("ninety_people.pt", 90, 90), ("five_actors.pt", 5, 5)]
)
async def test_galleries_of_facenet_courses(
    settings: StandaloneSettings, console: Console, shared_data: Path, content: tuple[str, int, int]
) -> None:
    file, faces, people = content
    await import_gallery(shared_data / "galleries" / file, settings, None, console)
    assert f"{faces} faces of {people} people imported, embedder facenet-vggface2" in console.export_text()
    async with Database.open(settings.database_file) as database:
        _, kept = await SqliteGalleryStore(database).faces("facenet-vggface2")
    assert (len(kept), len({face.person for face in kept})) == (faces, people)
