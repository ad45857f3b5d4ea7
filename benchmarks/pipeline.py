"""Frames per second of the whole pipeline over HTTP and MQTT against a bare loop, and its latency at half that rate.

The bare loop decodes, detects, aligns and embeds the same frames with the same models and nothing around them, with
its best number of threads. Rounds alternate: bare, HTTP, MQTT, bare, ... so that a busy machine slows all three.
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
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


def throughput(system: RunningFacewire, frames: Sequence[bytes], rounds: int, count: int) -> dict[str, list[float]]:
    """Return frames per second by way, one value a round."""
    once = bare_stage()
    best = max(THREADS, key=lambda threads: bare_round(once, frames, count, threads))
    figures: dict[str, list[float]] = {f"bare loop, {best} threads": [], "HTTP": [], "MQTT": []}
    ways: dict[str, Callable[[], Way]] = {
        "HTTP": lambda: Http(system.http_port),
        "MQTT": lambda: Mqtt(system.mqtt_port),
    }
    for _ in range(rounds):
        figures[f"bare loop, {best} threads"].append(bare_round(once, frames, count, best))
        for name, connect in ways.items():
            with connect() as way:
                figures[name].append(count / run(way, frames, count, in_flight=32))
    return figures


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which `share` of `values` lie."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def throughput_table(figures: dict[str, list[float]]) -> Table:
    """Return frames per second and the ratio to the bare loop, of the same round, as medians."""
    table = Table("way", "frames/s (median)", "of the bare loop", title="Throughput")
    bare = next(iter(figures.values()))
    for name, values in figures.items():
        ratios = [value / alone for value, alone in zip(values, bare, strict=True)]
        table.add_row(name, f"{statistics.median(values):.1f}", f"{statistics.median(ratios):.2f}")
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
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--count", type=int, default=192, help="frames a round")
    options = parser.parse_args()
    console = Console(width=110)
    frames = frames_of(options.frames)
    console.print(describe())
    with facewire_up() as system:
        figures = throughput(system, frames, options.rounds, options.count)
        console.print(throughput_table(figures))
        for name, connect in (("HTTP", Http), ("MQTT", Mqtt)):
            rate = statistics.median(figures[name]) / 2
            port = system.http_port if connect is Http else system.mqtt_port
            with connect(port) as way:
                console.print(latency_table(name, pace(way, frames, options.count, per_second=rate), rate))


if __name__ == "__main__":
    main()
