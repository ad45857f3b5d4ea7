"""What a benchmark ran on, in one line for the head of its table."""

import os
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")


def describe(packages: Sequence[str] = ()) -> str:
    """Return processor, usable cores, Python and the versions of the named packages."""
    versions = [f"{name} {version(name)}" for name in packages]
    return ", ".join([f"{processor()}, {cores()} cores", f"Python {platform.python_version()}", *versions])


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0))


def processor() -> str:
    """Return the processor's name as the system gives it."""
    lines = CPUINFO.read_text().splitlines() if CPUINFO.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
