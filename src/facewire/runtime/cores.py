"""How many cores this process may run on."""

import math
import os
from pathlib import Path

#: Where a container finds the files of its own control group.
CONTROL_GROUP = Path("/sys/fs/cgroup")


def usable_cores(control_group: Path = CONTROL_GROUP, *, affinity: int | None = None) -> int:
    """Return how many cores this process may run on: those it is bound to, or the time its control group may use."""
    bound_to = affinity or _affinity()
    quota = _quota(control_group)
    return bound_to if quota is None else max(1, min(bound_to, math.ceil(quota)))


def _affinity() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _quota(control_group: Path) -> float | None:
    """Return the cores' worth of time that cgroup v2, or v1, allows; None where that is not bounded or not known."""
    try:
        quota, period = _words(control_group / "cpu.max") or (
            *_words(control_group / "cpu" / "cpu.cfs_quota_us"),
            *_words(control_group / "cpu" / "cpu.cfs_period_us"),
        )
        cores = int(quota) / int(period)
    except (ValueError, ZeroDivisionError):  # "max", or no such files
        return None
    return cores if cores > 0 else None


def _words(file: Path) -> list[str]:
    try:
        return file.read_text().split()
    except OSError:
        return []
