"""The labelled pictures of the accuracy figures, and what becomes of them with one embedder. Shared with the tests."""

from dataclasses import dataclass
from pathlib import Path

from _faces import Pair, Pictures, lfw_pairs, read_pictures
from _protocol import OpenSet, enrol_pictures, of_fold, open_set, strangers_of

from facewire.vision.embedder import Embedder

#: The one fold that anything is chosen or calibrated on.
CALIBRATION_FOLD = 1
TEST_FOLD = 0


@dataclass(frozen=True)
class Labelled:
    """All pictures, read once, and who they show; a stranger's person is None."""

    pictures: Pictures
    pairs: list[Pair]
    frames: dict[Path, str]
    actors: dict[Path, str | None]
    series: dict[Path, str]

    @classmethod
    def read(cls, data: Path, embedder: Embedder) -> "Labelled":
        """Read the folder with two threads."""
        pairs = lfw_pairs(data / "lfw")
        frames = {path: path.stem.rpartition("_")[0] for path in sorted((data / "frames").glob("*.jpg"))}
        actors: dict[Path, str | None] = dict.fromkeys(sorted((data / "actors").glob("*/*.jpg")))
        series = {path: path.parent.name for path in sorted((data / "bbt").glob("*/*.png"))}
        pictures = read_pictures([*frames, *actors, *series, *strangers_of(pairs)], embedder)
        return cls(pictures, pairs, frames, actors, series)

    def of_frames(self, threshold: float, margin: float) -> OpenSet:
        """Enrol the first frame of each of 8 people; the others are probes, the actors' portraits strangers."""
        gallery = enrol_pictures(self.pictures, {p: who for p, who in self.frames.items() if p.stem.endswith("_0")})
        probes = {p: who for p, who in self.frames.items() if not p.stem.endswith("_0")}
        return open_set(self.pictures, gallery, {**probes, **self.actors}, threshold, margin)

    def of_series(self, fold: int, threshold: float, margin: float) -> OpenSet:
        """Enrol two pictures of each of 8 actors; the others are probes, a fold's LFW pictures strangers."""
        enrolled = {path: who for path, who in self.series.items() if path.stem[-1] in "12"}
        probes = {path: who for path, who in self.series.items() if path not in enrolled}
        strangers = strangers_of(of_fold(self.pairs, fold))
        gallery = enrol_pictures(self.pictures, enrolled)
        return open_set(self.pictures, gallery, {**probes, **strangers}, threshold, margin)
