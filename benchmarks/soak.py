"""Memory under ten minutes of load: resident sets of `facewire up` and its broker, and their slopes after warm-up."""

import argparse
import threading
import time
from pathlib import Path

import numpy as np
from _load import Http, Mqtt, Way, run
from _machine import describe
from _system import RunningFacewire, facewire_up
from pipeline import frames_of
from rich.console import Console
from rich.table import Table

SAMPLE_SECONDS = 2.0


class MemorySampler(threading.Thread):
    """Samples the resident memory and the size of the data folder until told to stop."""

    def __init__(self, system: RunningFacewire) -> None:
        super().__init__(daemon=True)
        self.samples: list[tuple[float, float, float, float]] = []
        self._system = system
        self._ended = threading.Event()

    def run(self) -> None:
        started = time.monotonic()
        while not self._ended.wait(SAMPLE_SECONDS):
            disk = sum(path.stat().st_size for path in self._system.data.glob("facewire.db*")) / 2**20
            memory = self._system.rss_mib(), self._system.broker_rss_mib()
            self.samples.append((time.monotonic() - started, *memory, disk))

    def finish(self) -> None:
        self._ended.set()
        self.join()


def slope_per_minute(seconds: np.ndarray, values: np.ndarray) -> float:
    """Return the slope of the least-squares line, in units a minute."""
    return float(np.polyfit(seconds / 60, values, 1)[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=Path, help="a folder of JPEG frames")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--warm-up", type=float, default=2.0, help="minutes left out of the slope")
    options = parser.parse_args()
    console = Console(width=110)
    frames = frames_of(options.frames)
    console.print(describe())
    answered = 0
    with facewire_up() as system:
        sampler = MemorySampler(system)
        sampler.start()
        ends = time.monotonic() + options.minutes * 60
        ways: tuple[Way, ...] = (Http(system.http_port), Mqtt(system.mqtt_port))
        with ways[0], ways[1]:
            while time.monotonic() < ends:
                for way in ways:
                    run(way, frames, 120, in_flight=16)
                    answered += 120
        sampler.finish()
    report(console, np.array(sampler.samples), answered, options.warm_up)


def report(console: Console, samples: np.ndarray, answered: int, warm_up: float) -> None:
    """Print how memory and disk went, minute by minute, and the slope after warm-up."""
    seconds, *columns = samples.T
    table = Table("minute", "RSS MiB", "broker RSS MiB", "database MiB", title=f"{answered} frames answered")
    for minute in range(int(seconds[-1] // 60) + 1):
        inside = (seconds >= minute * 60) & (seconds < (minute + 1) * 60)
        if inside.any():
            table.add_row(str(minute), *(f"{np.median(column[inside]):.1f}" for column in columns))
    console.print(table)
    warm = seconds >= warm_up * 60
    slopes = [slope_per_minute(seconds[warm], column[warm]) for column in columns[:2]]
    console.print(f"slope after {warm_up:g} min: {slopes[0]:+.2f} MiB a minute, broker {slopes[1]:+.2f}")


if __name__ == "__main__":
    main()
