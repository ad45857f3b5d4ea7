"""Metrics for CloudWatch in its embedded metric format: one line of JSON in the log for each invocation.

See "Specification: Embedded metric format" in the CloudWatch user guide.
"""

import json
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

NAMESPACE = "Facewire"
#: What CloudWatch reads of one metric in one line.
_MAX_VALUES = 100


def _write_line(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


class Metrics:
    """Collects the metrics of one function; `flush` writes and forgets them."""

    def __init__(self, function: str, *, write: Callable[[str], None] = _write_line) -> None:
        self._function = function
        self._write = write
        self._counts: dict[str, int] = {}
        self._milliseconds: dict[str, list[float]] = {}

    def count(self, name: str, number: int = 1) -> None:
        """Add `number` to the count of this invocation."""
        self._counts[name] = self._counts.get(name, 0) + number

    def time(self, name: str, milliseconds: float) -> None:
        """Note one duration; of more than a hundred in one invocation the first hundred count."""
        values = self._milliseconds.setdefault(name, [])
        if len(values) < _MAX_VALUES:
            values.append(round(milliseconds, 1))

    def time_steps(self, timings_ms: Mapping[str, float], steps: Mapping[str, str]) -> None:
        """Note the durations of those `steps`, by their name in `timings_ms`, each as the metric it is mapped to."""
        for step, name in steps.items():
            if step in timings_ms:
                self.time(name, timings_ms[step])

    def flush(self) -> None:
        """Write what was collected, if anything."""
        units = dict.fromkeys(self._counts, "Count") | dict.fromkeys(self._milliseconds, "Milliseconds")
        if not units:
            return
        directive = {
            "Namespace": NAMESPACE,
            "Dimensions": [["function"]],
            "Metrics": [{"Name": name, "Unit": unit} for name, unit in units.items()],
        }
        line: dict[str, Any] = {
            "_aws": {"Timestamp": int(time.time() * 1000), "CloudWatchMetrics": [directive]},
            "function": self._function,
            **self._counts,
            **self._milliseconds,
        }
        self._counts, self._milliseconds = {}, {}
        self._write(json.dumps(line, separators=(",", ":")))
