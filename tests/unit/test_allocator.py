"""Heaps of a process that keeps its memory level, counted from outside."""

import subprocess
import sys

import pytest

#: Touches 8 MiB in small blocks in each of six threads that run at the same time; prints glibc's count of heaps.
_PROGRAM = """
import ctypes, sys, threading
from facewire.runtime.process import keep_memory_level
if sys.argv[1] == "level":
    keep_memory_level()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
together = threading.Barrier(6)
def touch():
    together.wait()
    for _ in range(1000):
        libc.malloc(8192)
    together.wait()
threads = [threading.Thread(target=touch) for _ in range(6)]
for thread in threads: thread.start()
for thread in threads: thread.join()
libc.malloc_info(0, ctypes.c_void_p.in_dll(libc, "stdout"))
libc.fflush(None)
"""


def _heaps(mode: str) -> int:
    done = subprocess.run([sys.executable, "-c", _PROGRAM, mode], capture_output=True, text=True, check=True)
    return done.stdout.count("<heap nr=")


@pytest.mark.skipif(sys.platform != "linux", reason="needs glibc")
def test_all_threads_share_one_heap() -> None:
    assert _heaps("level") == 1
    assert _heaps("default") > 1


#: Frees a block of 10 MiB below one that stays, and prints how many MiB of it are still resident.
_LARGE = """
import sys
from facewire.runtime.process import give_back_from, keep_memory_level
def resident():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024
keep_memory_level()
if sys.argv[1] == "give back":
    give_back_from(1024 * 1024)
before = resident()
large, stays = bytearray(b"x") * (10 * 1024 * 1024), bytearray(b"x") * 100_000
del large
print(resident() - before)
"""


def _kept(mode: str) -> float:
    done = subprocess.run([sys.executable, "-c", _LARGE, mode], capture_output=True, text=True, check=True)
    return float(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="needs glibc")
def test_a_large_block_is_given_back_where_asked_for() -> None:
    assert _kept("give back") < 2
    assert _kept("keep") > 8
