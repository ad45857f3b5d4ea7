"""What a benchmark ran on, in one line for the head of its table."""

import os
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from facewire.runtime.cores import usable_cores

CPUINFO = Path("/proc/cpuinfo")
STAT = Path("/proc/stat")
#: Where proc(5) counts, in the first line of /proc/stat, what a hypervisor took.
STEAL_FIELD = 8


def describe(packages: Sequence[str] = ()) -> str:
    """Return processor, usable cores, Python and the versions of the named packages."""
    versions = [f"{name} {version(name)}" for name in packages]
    return ", ".join([f"{processor()}, {usable_cores()} cores", f"Python {platform.python_version()}", *versions])


def stolen_seconds() -> float:
    """Return for how long the hypervisor has kept a core of this machine from it, on average over the cores."""
    if not STAT.exists():
        return 0.0
    ticks = int(STAT.read_text().split("\n", 1)[0].split()[STEAL_FIELD])
    return ticks / os.sysconf("SC_CLK_TCK") / (os.cpu_count() or 1)


def processor() -> str:
    """Return the processor's name as the system gives it."""
    lines = CPUINFO.read_text().splitlines() if CPUINFO.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
