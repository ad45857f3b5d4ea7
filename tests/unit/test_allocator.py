"""Heaps of a process that keeps its memory level, counted from outside."""

import subprocess
import sys

import pytest

#: Touches 8 MiB in small blocks in each of six threads that run at the same time; prints glibc's count of heaps.
_PROGRAM = """
import ctypes, sys, threading
from facewire.runtime.allocator import keep_memory_level
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
