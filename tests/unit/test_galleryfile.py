import io
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from facewire.adapters.gallery_file import GalleryRows, read_gallery, write_gallery
from facewire.domain.errors import GalleryError, ModelError
from facewire.vision.embedder import unit

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C


class Dangerous:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch /nonexistent/pwned",)


def rows(count: int = 3, dimension: int = 128) -> NDArray[np.float32]:
    return unit(np.random.default_rng(1).standard_normal((count, dimension)).astype(np.float32))


def archive(path: Path, **arrays: object) -> Path:
    with path.open("wb") as file:
        np.savez(file, allow_pickle=True, **arrays)  # type: ignore[arg-type]
    return path


def code_of(path: Path, **options: str) -> str:
    with pytest.raises(GalleryError) as caught:
        read_gallery(path, **options)
    assert str(path.name) in caught.value.detail
    return caught.value.code


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    written = GalleryRows("dlib-resnet29", ("Ann", "Ann", "Zoë Ω"), rows())
    write_gallery(tmp_path / "a.npz", written)
    read = read_gallery(tmp_path / "a.npz")
    assert (read.embedder, read.names) == ("dlib-resnet29", ("Ann", "Ann", "Zoë Ω"))
    np.testing.assert_allclose(read.embeddings, written.embeddings, atol=1e-6)
    assert [file.name for file in tmp_path.iterdir()] == ["a.npz"]


def test_an_archive_without_embedder_takes_the_callers_and_is_scaled_to_unit_length(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.npz", embeddings=rows() * 7, names=np.array(["a", "b", "c"]))
    gallery = read_gallery(path, embedder="sface")
    assert gallery.embedder == "sface"
    np.testing.assert_allclose(np.linalg.norm(gallery.embeddings, axis=1), 1, atol=1e-6)


def test_an_archive_of_another_embedder_is_refused(tmp_path: Path) -> None:
    write_gallery(tmp_path / "a.npz", GalleryRows("sface", ("a", "b", "c"), rows()))
    assert code_of(tmp_path / "a.npz", embedder="dlib-resnet29") == "wrong_embedder"


def test_the_dimension_must_be_the_embedders(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.npz", embeddings=rows(), names=np.array(["a", "b", "c"]))
    assert code_of(path) == "wrong_dimension"


def test_an_unknown_embedder_is_named(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.npz", embeddings=rows(), names=np.array(["a", "b", "c"]), embedder=np.array("none"))
    with pytest.raises(ModelError, match="none"):
        read_gallery(path)


@pytest.mark.parametrize(
    ("embeddings", "names", "code"),
    [
        (rows(2), ["a", "b", "c"], "bad_rows"),
        (rows() * np.array([[1], [0], [1]], np.float32), ["a", "b", "c"], "bad_rows"),
        (rows() * np.array([[1], [np.nan], [1]], np.float32), ["a", "b", "c"], "bad_rows"),
        (rows()[:0], [], "bad_rows"),
        (np.array([["x"] * 128] * 3), ["a", "b", "c"], "bad_rows"),
        (rows(), ["a", "../b", "c"], "bad_name"),
        (rows(), ["a", "b\n", "c\x07"], "bad_name"),
        (rows(), [1, 2, 3], "bad_name"),
    ],
)
def test_rows_and_names_that_cannot_be_used(
    tmp_path: Path, embeddings: NDArray[Any], names: list[object], code: str
) -> None:
    path = archive(tmp_path / "a.npz", embeddings=embeddings, names=np.array(names))
    assert code_of(path, embedder="dlib-resnet29") == code


def test_objects_in_an_archive_are_not_unpickled(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.npz", embeddings=rows(), names=np.array([Dangerous(), 1, 2], object))
    assert code_of(path) == "unreadable"


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04", b"PK\x05\x06" + bytes(18)])
def test_other_files_are_unreadable(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(content)
    assert code_of(path) == "unreadable"


def torch_list(path: Path, content: object) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps(content, protocol=2))
    return path


def contains_itself() -> list[object]:
    loop: list[object] = []
    loop.append(loop)
    return loop


def many_times(value: object, levels: int) -> object:
    for _ in range(levels):
        value = [value] * 10
    return value


@pytest.mark.parametrize(
    "embeddings",
    [
        [[[1.0, 2.0], [3.0]]],
        [[1.0, 2.0], [3.0]],
        contains_itself(),
        many_times(1.0, 8),
        [[1.0] * 5_000],
        [["x"] * 512],
        [[True] * 512],
        [[10**400] * 512],
        [[1e300] * 512],
        [1.0, 2.0],
        [[]],
        [],
    ],
    ids=lambda _: "list",
)
def test_lists_that_are_no_embeddings_are_refused_unexpanded(tmp_path: Path, embeddings: list[object]) -> None:
    assert code_of(torch_list(tmp_path / "a.pt", [embeddings, ["a"]])) == "bad_rows"


def test_one_list_as_many_faces_is_refused_unexpanded(tmp_path: Path) -> None:
    assert code_of(torch_list(tmp_path / "a.pt", [[[1.0] * 4_096] * 100_000, ["a"]])) == "bad_rows"


def test_a_list_of_flat_lists_is_read(tmp_path: Path) -> None:
    path = torch_list(tmp_path / "a.pt", [[[1.0] * 512, [2] * 512], ["a", "b"]])
    np.testing.assert_allclose(read_gallery(path).embeddings, unit(np.ones((2, 512), np.float32)), atol=1e-6)


@pytest.mark.parametrize("embeddings", [np.float32(1), np.empty((10, 0)), np.ones((2, 5_000))])
def test_arrays_that_are_no_embeddings_are_refused(tmp_path: Path, embeddings: object) -> None:
    path = archive(tmp_path / "a.npz", embeddings=embeddings, names=np.array(["a"]))
    assert code_of(path) == "bad_rows"


@pytest.mark.parametrize("seed", range(20))
def test_a_damaged_compressed_archive_is_unreadable(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, embeddings=rows(40), names=np.array(["a"] * 40))
    data = bytearray(path.read_bytes())
    start = int(np.random.default_rng(seed).integers(60, 2_000))
    data[start : start + 40] = bytes(255 - value for value in data[start : start + 40])
    path.write_bytes(data)
    assert code_of(path, embedder="dlib-resnet29") == "unreadable"


def test_a_missing_file_is_unreadable(tmp_path: Path) -> None:
    with pytest.raises(GalleryError, match="No such file"):
        read_gallery(tmp_path / "none.pt")


def test_a_pickle_that_calls_a_function_is_refused_in_the_zip_format(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps([Dangerous(), ["a"]], protocol=2))
    with pytest.raises(GalleryError, match="system") as caught:
        read_gallery(path)
    assert caught.value.code == "unsafe"


def test_a_pickle_that_calls_a_function_is_refused_in_the_older_format(tmp_path: Path) -> None:
    stream = io.BytesIO()
    for part in (LEGACY_MAGIC, 1001, {"little_endian": True}, [Dangerous(), ["a"]], []):
        pickle.dump(part, stream, protocol=2)
    path = tmp_path / "a.pt"
    path.write_bytes(stream.getvalue())
    with pytest.raises(GalleryError, match="system") as caught:
        read_gallery(path)
    assert caught.value.code == "unsafe"


@pytest.mark.parametrize(
    ("file", "faces", "people"), [("eight_people", 79, 8), ("ninety_people", 90, 90), ("five_actors", 5, 5)]
)
def test_galleries_of_facenet_courses(shared_data: Path, file: str, faces: int, people: int) -> None:
    gallery = read_gallery(shared_data / "galleries" / f"{file}.pt")
    assert gallery.embedder == "facenet-vggface2"
    assert gallery.embeddings.shape == (faces, 512)
    assert (len(gallery.names), len(set(gallery.names))) == (faces, people)
