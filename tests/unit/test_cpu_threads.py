"""Whether the two stages have threads of their own or share them."""

import asyncio
from pathlib import Path

import pytest

from facewire.runtime.cores import usable_cores
from facewire_standalone.settings import StandaloneSettings
from facewire_standalone.stages import threads_to_share


@pytest.mark.parametrize(("cores", "apart"), [(1, False), (2, False), (3, True), (16, True)])
async def test_stages_share_threads_where_there_are_fewer_cores_than_threads(cores: int, apart: bool) -> None:
    async with threads_to_share(StandaloneSettings(detector_threads=2, recognizer_threads=1), cores) as threads:
        assert (threads is None) is apart


async def test_shared_threads_are_as_many_as_the_larger_stage_asked_for() -> None:
    met = asyncio.Event()
    loop = asyncio.get_running_loop()
    waiting = 0

    async def meet() -> None:
        nonlocal waiting
        waiting += 1
        if waiting == 3:
            met.set()
        await met.wait()

    def compute() -> None:
        asyncio.run_coroutine_threadsafe(meet(), loop).result(10)

    async with threads_to_share(StandaloneSettings(detector_threads=3, recognizer_threads=1), 2) as threads:
        assert threads is not None
        calls = [loop.run_in_executor(threads, compute) for _ in range(3)]
        await asyncio.gather(*calls)


def test_there_is_a_core_to_run_on() -> None:
    assert usable_cores() >= 1


V1 = ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "100000 100000"}, 1),
        ({"cpu.max": "50000 100000"}, 1),
        ({"cpu.max": "150000 100000"}, 2),
        ({"cpu.max": "250000 100000"}, 3),
        ({"cpu.max": "99900000 100000"}, 64),
        ({"cpu.max": "max 100000"}, 64),
        ({"cpu.max": "nonsense"}, 64),
        (dict(zip(V1, ("150000", "100000"), strict=True)), 2),
        (dict(zip(V1, ("-1", "100000"), strict=True)), 64),
        ({}, 64),
    ],
)
def test_no_more_cores_than_the_control_group_allows(tmp_path: Path, files: dict[str, str], cores: int) -> None:
    (tmp_path / "cpu").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(f"{text}\n")
    assert usable_cores(tmp_path, affinity=64) == cores
