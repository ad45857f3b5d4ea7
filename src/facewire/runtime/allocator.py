"""How the C library keeps memory in processes that turn over pictures for months."""

import ctypes

#: Parameters of mallopt(3) in glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
#: More than the pictures and the networks' buffers of two frames of 1080p need at a time.
_KEPT_BYTES = 512 * 1024 * 1024
#: The most that glibc takes; larger blocks, such as those of a 40-megapixel picture, go back at once.
_LARGE_BYTES = 32 * 1024 * 1024


def keep_memory_level() -> None:
    """Let all threads share one heap that is not given back and fetched again between frames.

    glibc gives each thread a heap of its own, whose gaps no other can fill: resident memory creeps up for hours. Call
    it before the first thread starts. A C library without mallopt, such as musl, stays as it is.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
        mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
