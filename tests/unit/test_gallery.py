import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from facewire.domain.errors import GalleryError
from facewire.domain.gallery import Candidate, Gallery, GalleryFace
from facewire.vision.embedder import unit

Vectors = NDArray[np.float32]


def vectors(count: int, dimension: int = 8, seed: int = 0) -> Vectors:
    return unit(np.random.default_rng(seed).standard_normal((count, dimension)).astype(np.float32))


def gallery(people: str, embeddings: Vectors) -> Gallery:
    faces = [GalleryFace(f"f{i}", person, row) for i, (person, row) in enumerate(zip(people, embeddings, strict=True))]
    return Gallery.empty(embeddings.shape[1]).with_faces(faces, version=7)


def axes(*rows: list[float]) -> Vectors:
    return unit(np.array(rows, np.float32))


def is_near(candidate: Candidate | None, person: str, similarity: float) -> bool:
    return candidate is not None and candidate.person == person and abs(candidate.similarity - similarity) < 1e-6


def test_an_empty_gallery_knows_nobody() -> None:
    matches = Gallery.empty(8).match(vectors(2), threshold=-1, margin=0)
    assert [(match.known, match.nearest, match.runner_up, match.reason) for match in matches] == [
        (False, None, None, "empty_gallery")
    ] * 2


def test_no_faces_give_no_matches() -> None:
    assert gallery("ab", vectors(2)).match(vectors(0), threshold=0.5, margin=0) == []


def test_the_nearest_face_of_a_person_counts_and_the_runner_up_is_another_person() -> None:
    enrolled = gallery("aab", axes([1, 0, 0], [0.9, 0.1, 0], [0.5, 0.5, 0]))
    (match,) = enrolled.match(axes([1, 0, 0]), threshold=0.9, margin=0.1)
    assert match.known
    assert is_near(match.nearest, "a", 1)
    assert is_near(match.runner_up, "b", np.sqrt(0.5))


def test_one_person_has_no_runner_up_and_needs_no_margin() -> None:
    (match,) = gallery("aa", axes([1, 0], [0, 1])).match(axes([1, 0]), threshold=0.9, margin=0.5)
    assert (match.known, match.runner_up) == (True, None)


def test_below_the_threshold_nobody_is_known() -> None:
    (match,) = gallery("ab", axes([1, 0], [0, 1])).match(axes([3, 1]), threshold=0.95, margin=0)
    assert (match.known, match.reason) == (False, "below_threshold")
    assert is_near(match.nearest, "a", 3 / np.sqrt(10))


def test_exactly_the_threshold_is_enough() -> None:
    enrolled = gallery("ab", axes([1, 0], [0, 1]))
    assert enrolled.match(axes([1, 0]), threshold=1.0, margin=1.0)[0].known


def test_a_small_lead_is_ambiguous() -> None:
    (match,) = gallery("ab", axes([1, 0.1], [0.1, 1])).match(axes([1.05, 1]), threshold=0.5, margin=0.1)
    assert (match.known, match.reason) == (False, "ambiguous")
    assert match.nearest is not None
    assert match.nearest.person == "a"


@pytest.mark.parametrize("people", ["ab", "a"])
def test_what_is_not_a_number_is_nobody(people: str) -> None:
    enrolled = gallery(people, axes([1, 0], [0, 1])[: len(people)])
    for broken in ([np.nan, np.nan], [np.nan, 1], [1, np.nan]):
        (match,) = enrolled.match(np.array([broken], np.float32), threshold=-1, margin=0)
        assert (match.known, match.reason) == (False, "below_threshold")


@pytest.mark.parametrize(("threshold", "margin"), [(np.nan, 0), (0, np.nan)])
def test_a_limit_that_is_not_a_number_lets_nobody_through(threshold: float, margin: float) -> None:
    enrolled = gallery("ab", axes([1, 0], [0, 1]))
    assert not enrolled.match(axes([1, 0]), threshold=threshold, margin=margin)[0].known


@given(st.lists(st.sampled_from("abcd"), min_size=2, max_size=12), st.integers(0, 99))
def test_it_agrees_with_a_search_one_by_one(people: list[str], seed: int) -> None:
    enrolled, probes = vectors(len(people), seed=seed), vectors(3, seed=seed + 1)
    for probe, match in zip(
        probes, gallery("".join(people), enrolled).match(probes, threshold=-1, margin=0), strict=True
    ):
        best = {
            person: max(float(row @ probe) for name, row in zip(people, enrolled, strict=True) if name == person)
            for person in people
        }
        ranked = sorted(best, key=lambda person: -best[person])
        assert is_near(match.nearest, ranked[0], best[ranked[0]])
        if len(ranked) > 1:
            assert is_near(match.runner_up, ranked[1], best[ranked[1]])
        else:
            assert match.runner_up is None


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 20)), max_size=20), st.sets(st.integers(0, 20)))
def test_changes_one_by_one_come_to_the_same_as_all_at_once(added: list[tuple[str, int]], removed: set[int]) -> None:
    rows = vectors(21)
    faces = list(
        {number: GalleryFace(f"f{number}", person, rows[number]) for person, number in reversed(added)}.values()
    )
    step_by_step = Gallery.empty(8)
    for version, face in enumerate(faces):
        step_by_step = step_by_step.with_faces([face], version=version)
    gone = [f"f{number}" for number in removed]
    one, other = (one.without(gone, version=9) for one in (step_by_step, Gallery.empty(8).with_faces(faces, version=1)))
    assert one.faces == other.faces
    assert one.people == tuple(sorted({face.person for face in faces if face.face_id not in gone}))
    np.testing.assert_array_equal(one.embeddings, other.embeddings)


def test_a_snapshot_does_not_change() -> None:
    before = gallery("ab", vectors(2))
    after = before.with_faces([GalleryFace("new", "c", vectors(1, seed=5)[0])], version=8).without(["f0"], version=9)
    assert (before.people, before.version, len(before)) == (("a", "b"), 7, 2)
    assert (after.people, after.version, len(after)) == (("b", "c"), 9, 2)


def test_a_known_face_is_left_as_it_is() -> None:
    before = gallery("a", vectors(1))
    after = before.with_faces([GalleryFace("f0", "b", vectors(1, seed=3)[0])], version=8)
    assert (after.people, after.version) == (("a",), 8)


def test_an_embedding_of_another_dimension_is_refused() -> None:
    with pytest.raises(GalleryError, match=r"shape \(4,\), this gallery's have \(8,\)") as caught:
        gallery("a", vectors(1)).with_faces([GalleryFace("x", "b", vectors(1, 4)[0])], version=8)
    assert caught.value.code == "wrong_dimension"


def test_ten_thousand_faces_are_searched_at_once() -> None:
    rows = vectors(10_000, 128)
    large = Gallery.empty(128).with_faces(
        [GalleryFace(f"f{i}", f"p{i // 4}", row) for i, row in enumerate(rows)], version=1
    )
    times = []
    for _ in range(10):
        started = time.perf_counter()
        matches = large.match(rows[:8], threshold=0.9, margin=0.1)
        times.append(time.perf_counter() - started)
    assert [match.nearest and match.nearest.person for match in matches] == ["p0"] * 4 + ["p1"] * 4
    assert min(times) < 0.05, "a batch takes 2 to 5 ms on two cores"
