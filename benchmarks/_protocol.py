"""How good an embedder is: LFW's pairs, a threshold from one fold, an open set of people. Shared with the tests."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from _faces import Face, Pair, Pictures, central, lfw_name, to_enrol, to_recognise
from numpy.typing import NDArray

from facewire.domain.gallery import Gallery, GalleryFace

Floats = NDArray[np.float64]

#: The share of comparisons with strangers that may reach the threshold: one stranger in 200 against 25 enrolled faces.
FALSE_ACCEPTS = 2e-4


@dataclass(frozen=True)
class Verification:
    """Shares of 1: pairs judged rightly, and matching pairs accepted where one in 100 others is."""

    accuracy: float
    true_accepts: float


@dataclass(frozen=True)
class OpenSet:
    """Outcomes of probes: pictures of enrolled people named rightly, wrongly or not at all, and strangers named."""

    right: int
    wrong: int
    missed: int
    strangers: int
    strangers_named: int

    @property
    def miss_rate(self) -> float:
        """The share of enrolled people's pictures that were not named rightly."""
        return (self.missed + self.wrong) / (self.right + self.wrong + self.missed)

    @property
    def stranger_rate(self) -> float:
        """The share of strangers who were given a name."""
        return self.strangers_named / max(1, self.strangers)


def similarities(pictures: Pictures, pairs: Sequence[Pair]) -> tuple[Floats, NDArray[np.bool_]]:
    """Return the cosine of each pair and whether it shows one person."""
    first = np.stack([central(pictures[pair.first]).embedding for pair in pairs])
    second = np.stack([central(pictures[pair.second]).embedding for pair in pairs])
    return (first * second).sum(1, dtype=np.float64), np.array([pair.same for pair in pairs])


def best_threshold(scores: Floats, same: NDArray[np.bool_]) -> float:
    """Return the threshold that judges the most pairs rightly, as LFW's protocol takes it from the training folds."""
    order = np.argsort(scores)
    accepted, matching = scores[order], same[order]
    right = matching.sum() + np.concatenate([[0], np.cumsum(np.where(matching, -1, 1))])
    cut = int(right.argmax())
    return float(accepted[max(cut - 1, 0) : cut + 1].mean())


def verify(pictures: Pictures, train: Sequence[Pair], test: Sequence[Pair]) -> Verification:
    """Return the figures on the pairs `test`, with the threshold of the pairs `train`."""
    threshold = best_threshold(*similarities(pictures, train))
    scores, same = similarities(pictures, test)
    strict = np.sort(scores[~same])[::-1][int(0.01 * (~same).sum())]
    return Verification(float(((scores >= threshold) == same).mean()), float((scores[same] > strict).mean()))


def calibrate(pictures: Pictures, pairs: Sequence[Pair]) -> float:
    """Return the threshold that FALSE_ACCEPTS of all comparisons between different people in these pairs reach."""
    paths = sorted({path for pair in pairs for path in (pair.first, pair.second)})
    embeddings = np.stack([central(pictures[path]).embedding for path in paths])
    people = np.array([lfw_name(path) for path in paths])
    different = np.triu(people[:, None] != people[None], 1)
    strangers = np.sort((embeddings @ embeddings.T)[different])[::-1]
    return float(strangers[int(FALSE_ACCEPTS * len(strangers))])


def leads(pictures: Pictures, pairs: Sequence[Pair], threshold: float) -> tuple[Floats, Floats]:
    """Return by how much the nearest person leads the runner-up, where that is right and where it is wrong.

    Every picture of the pairs is compared with all others of them; only what reaches the threshold counts.
    """
    people = {path: lfw_name(path) for pair in pairs for path in (pair.first, pair.second)}
    gallery = enrol({path: (person, central(pictures[path])) for path, person in people.items()})
    outcomes: dict[bool, list[float]] = {True: [], False: []}
    for path, person in people.items():
        others = gallery.without([str(path)], version=0)
        (match,) = others.match(central(pictures[path]).embedding[None], threshold=threshold, margin=0)
        if match.known and match.nearest and match.runner_up:
            outcomes[match.nearest.person == person].append(match.nearest.similarity - match.runner_up.similarity)
    return np.sort(outcomes[True]), np.sort(outcomes[False])


def enrol(faces: dict[Path, tuple[str, Face]]) -> Gallery:
    """Return a gallery of people's faces; the picture's path is the face's id."""
    rows = [GalleryFace(str(path), person, face.embedding) for path, (person, face) in faces.items()]
    return Gallery.empty(len(rows[0].embedding)).with_faces(rows, version=1)


def enrol_pictures(pictures: Pictures, people: dict[Path, str]) -> Gallery:
    """Return a gallery of the face that may be enrolled in each picture."""
    return enrol({path: (person, to_enrol(pictures[path])) for path, person in people.items()})


def name(faces: Sequence[Face], gallery: Gallery, threshold: float, margin: float) -> str | None:
    """Return the answer for a picture: the known person with the largest face."""
    embeddings = [face.embedding for face in to_recognise(faces)]
    if not embeddings:
        return None
    matches = gallery.match(np.stack(embeddings), threshold=threshold, margin=margin)
    return next((match.nearest.person for match in matches if match.known and match.nearest), None)


def open_set(
    pictures: Pictures, gallery: Gallery, probes: dict[Path, str | None], threshold: float, margin: float
) -> OpenSet:
    """Return what becomes of the probes; their values are who they show, None for a stranger."""
    outcomes = [(person, name(pictures[path], gallery, threshold, margin)) for path, person in probes.items()]
    enrolled = [(person, found) for person, found in outcomes if person is not None]
    strangers = [found for person, found in outcomes if person is None]
    right = sum(person == found for person, found in enrolled)
    missed = sum(found is None for _, found in enrolled)
    named = sum(found is not None for found in strangers)
    return OpenSet(right, len(enrolled) - right - missed, missed, len(strangers), named)


def of_fold(pairs: Sequence[Pair], fold: int) -> list[Pair]:
    """Return the pairs of one fold."""
    return [pair for pair in pairs if pair.fold == fold]


def strangers_of(pairs: Sequence[Pair]) -> dict[Path, str | None]:
    """Return the pictures of the pairs as probes of people who are not enrolled."""
    return {path: None for pair in pairs for path in (pair.first, pair.second)}
