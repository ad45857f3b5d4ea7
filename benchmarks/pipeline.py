"""Frames per second of the whole pipeline over HTTP and MQTT against a bare loop, and its latency at half that rate.

The bare loop decodes, detects, aligns and embeds the same frames with the same models and nothing around them, with
its best number of threads. Turns alternate: bare, HTTP, bare, MQTT, bare, ... and each is compared with the bare turns
before and after it, so that a busy machine slows both. What a hypervisor takes from a turn, up to half of it where
machines are shared, is taken off its time; the last column tells the shares by the clock on the wall.
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from _load import Http, Mqtt, Way, pace, run
from _machine import describe, stolen_seconds
from _system import RunningFacewire, facewire_up
from rich.console import Console
from rich.table import Table

from facewire.runtime.settings import DetectorSettings, RecognizerSettings
from facewire.vision import alignment, imagecodec
from facewire.vision.models import load_detector, load_embedder

ROOT = Path(__file__).resolve().parents[1]
SHARED_FRAMES = ROOT.parent / "shared" / "data" / "frames"
THREADS = (1, 2)


def frames_of(folder: Path | None) -> list[bytes]:
    """Return the encoded frames: those of `folder`, of the labelled clips, or the samples that ship."""
    for candidate in (folder, SHARED_FRAMES, ROOT / "samples"):
        if candidate is not None and candidate.is_dir():
            return [path.read_bytes() for path in sorted(candidate.glob("*.jpg"))]
    raise FileNotFoundError("no frames: name a folder of JPEG files with --frames")


def bare_stage() -> Callable[[bytes], int]:
    """Return decode + detect + align + embed of one frame, as a plain function."""
    detector = load_detector(min_face_size=DetectorSettings.read().min_face_size)
    embedder = load_embedder(RecognizerSettings.read().embedder)

    def once(data: bytes) -> int:
        image = imagecodec.decode(data)
        found = detector(image)
        if len(found.boxes):
            chips = [
                alignment.align(image, box, landmarks, embedder.spec)
                for box, landmarks in zip(found.boxes, found.landmarks, strict=True)
            ]
            embedder.embed(np.stack(chips))
        return len(found.boxes)

    return once


def bare_round(once: Callable[[bytes], int], frames: Sequence[bytes], count: int, threads: int) -> float:
    """Run the bare loop over `count` frames; return the seconds that it took."""
    started = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(once, itertools.islice(itertools.cycle(frames), count)):
            pass
    return time.perf_counter() - started


@dataclass(frozen=True)
class Turn:
    """Frames per second of one turn: of the time that the machine had for it, and by the clock on the wall."""

    own: float
    wall: float
    stolen: float

    @classmethod
    def of(cls, count: int, work: Callable[[], float]) -> "Turn":
        """Do `work`, which returns the seconds that `count` frames took."""
        before = stolen_seconds()
        seconds = work()
        stolen = stolen_seconds() - before
        return cls(count / (seconds - stolen), count / seconds, stolen / seconds)


@dataclass
class Throughput:
    """The turns of one way, and for each the bare turns before and after it."""

    turns: list[Turn] = field(default_factory=list)
    bare: list[tuple[Turn, Turn]] = field(default_factory=list)

    def shares(self, rate: Callable[[Turn], float]) -> list[float]:
        """Return the turns' shares of the bare loop, in ascending order."""
        bare = [(rate(before) + rate(after)) / 2 for before, after in self.bare]
        return sorted(rate(turn) / beside for turn, beside in zip(self.turns, bare, strict=True))

    def rate(self) -> float:
        """Return the median of the turns' frames per second."""
        return statistics.median(turn.own for turn in self.turns)


def throughput(
    system: RunningFacewire, frames: Sequence[bytes], rounds: int, count: int
) -> tuple[int, dict[str, Throughput]]:
    """Return the bare loop's best number of threads, and what each way did."""
    once = bare_stage()
    best = best_threads(once, frames, count // 2)
    ways: dict[str, Callable[[], Way]] = {
        "HTTP": lambda: Http(system.http_port),
        "MQTT": lambda: Mqtt(system.mqtt_port),
    }
    figures = {name: Throughput() for name in ways}
    bare = partial(bare_round, once, frames, count, best)
    before = Turn.of(count, bare)
    for name in itertools.islice(itertools.cycle(ways), rounds * len(ways)):
        with ways[name]() as way:
            figures[name].turns.append(Turn.of(count, partial(run, way, frames, count, in_flight=32)))
        after = Turn.of(count, bare)
        figures[name].bare.append((before, after))
        before = after
    return best, figures


def best_threads(once: Callable[[bytes], int], frames: Sequence[bytes], count: int) -> int:
    """Return the number of threads with the highest median of five turns each, taken alternately."""
    rates: dict[int, list[float]] = {threads: [] for threads in THREADS}
    for threads in THREADS * 5:
        turn = Turn.of(count, partial(bare_round, once, frames, count, threads))
        rates[threads].append(turn.own)
    return max(THREADS, key=lambda threads: statistics.median(rates[threads]))


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which `share` of `values` lie."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def throughput_table(threads: int, figures: dict[str, Throughput]) -> Table:
    """Return frames per second and the share of the bare loop, as medians with quartiles."""
    table = Table("way", "frames/s", "of the bare loop (quartiles)", "stolen", "by the wall clock", title="Throughput")
    bare = [turn for figure in figures.values() for pair in figure.bare for turn in pair]
    rate = statistics.median(turn.own for turn in bare)
    table.add_row(f"bare loop, {threads} threads", f"{rate:.1f}", "1.00", stolen_share(bare), "1.00")
    for name, figure in figures.items():
        lower, median, upper = statistics.quantiles(figure.shares(lambda turn: turn.own), n=4, method="inclusive")
        share = f"{median:.2f} ({lower:.2f} to {upper:.2f})"
        wall = statistics.median(figure.shares(lambda turn: turn.wall))
        table.add_row(name, f"{figure.rate():.1f}", share, stolen_share(figure.turns), f"{wall:.2f}")
    return table


def stolen_share(turns: Sequence[Turn]) -> str:
    """Return how much of the turns the hypervisor took."""
    return f"{statistics.mean(turn.stolen for turn in turns):.0%}"


def latency_table(name: str, heard: list[tuple[float, dict[str, Any]]], rate: float) -> Table:
    """Return p50, p95, p99 in milliseconds, end to end and by stage."""
    table = Table("stage", "p50", "p95", "p99", title=f"Latency over {name} at {rate:.1f} frames/s, ms")
    stages: dict[str, list[float]] = {"send to answer": [latency * 1e3 for latency, _ in heard]}
    for _, answer in heard:
        for stage, milliseconds in answer["timings_ms"].items():
            stages.setdefault(stage, []).append(milliseconds)
    for stage, values in stages.items():
        table.add_row(stage, *(f"{percentile(values, share):.1f}" for share in (0.5, 0.95, 0.99)))
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--frames", type=Path, help="a folder of JPEG frames")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--count", type=int, default=144, help="frames a turn")
    options = parser.parse_args()
    console = Console(width=110)
    frames = frames_of(options.frames)
    console.print(describe())
    with facewire_up() as system:
        threads, figures = throughput(system, frames, options.rounds, options.count)
        console.print(throughput_table(threads, figures))
        for name, connect in (("HTTP", Http), ("MQTT", Mqtt)):
            rate = figures[name].rate() / 2
            port = system.http_port if connect is Http else system.mqtt_port
            with connect(port) as way:
                console.print(latency_table(name, pace(way, frames, options.count, per_second=rate), rate))


if __name__ == "__main__":
    main()
