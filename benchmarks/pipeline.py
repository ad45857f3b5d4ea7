"""Frames per second of the whole pipeline over HTTP and MQTT against a bare loop, and its latency at half that rate.

The bare loop decodes, detects, aligns and embeds the same frames with the same models and nothing around them, with
its best number of threads. Turns alternate: bare, HTTP, bare, MQTT, bare, ... and each is compared with the bare turns
before and after it, so that a busy machine slows both.
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from _load import Http, Mqtt, Way, pace, run
from _machine import describe
from _system import RunningFacewire, facewire_up
from rich.console import Console
from rich.table import Table

from facewire.settings import DetectorSettings, RecognizerSettings
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
    """Return the frames per second of the bare loop."""
    started = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(once, itertools.islice(itertools.cycle(frames), count)):
            pass
    return count / (time.perf_counter() - started)


@dataclass
class Throughput:
    """Frames per second of one way, a value a turn, and of the bare loop around each."""

    rates: list[float] = field(default_factory=list)
    bare: list[float] = field(default_factory=list)

    def shares(self) -> tuple[float, float, float]:
        """Return the lower quartile, median and upper quartile of the turns' shares of the bare loop."""
        shares = [rate / bare for rate, bare in zip(self.rates, self.bare, strict=True)]
        lower, median, upper = statistics.quantiles(shares, n=4, method="inclusive")
        return lower, median, upper


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
    before = bare_round(once, frames, count, best)
    for name in itertools.islice(itertools.cycle(ways), rounds * len(ways)):
        with ways[name]() as way:
            figures[name].rates.append(count / run(way, frames, count, in_flight=32))
        after = bare_round(once, frames, count, best)
        figures[name].bare.append((before + after) / 2)
        before = after
    return best, figures


def best_threads(once: Callable[[bytes], int], frames: Sequence[bytes], count: int) -> int:
    """Return the number of threads with the highest median of five turns each, taken alternately."""
    rates: dict[int, list[float]] = {threads: [] for threads in THREADS}
    for threads in THREADS * 5:
        rates[threads].append(bare_round(once, frames, count, threads))
    return max(THREADS, key=lambda threads: statistics.median(rates[threads]))


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which `share` of `values` lie."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def throughput_table(threads: int, figures: dict[str, Throughput]) -> Table:
    """Return frames per second and the share of the bare loop, as medians."""
    table = Table("way", "frames/s (median)", "of the bare loop (quartiles)", title="Throughput")
    bare = [rate for figure in figures.values() for rate in figure.bare]
    table.add_row(f"bare loop, {threads} threads", f"{statistics.median(bare):.1f}", "1.00")
    for name, figure in figures.items():
        lower, median, upper = figure.shares()
        table.add_row(name, f"{statistics.median(figure.rates):.1f}", f"{median:.2f} ({lower:.2f} to {upper:.2f})")
    return table


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
            rate = statistics.median(figures[name].rates) / 2
            port = system.http_port if connect is Http else system.mqtt_port
            with connect(port) as way:
                console.print(latency_table(name, pace(way, frames, options.count, per_second=rate), rate))


if __name__ == "__main__":
    main()
