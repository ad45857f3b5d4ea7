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
    _set((_M_ARENA_MAX, 1), (_M_TRIM_THRESHOLD, _KEPT_BYTES), (_M_MMAP_THRESHOLD, _LARGE_BYTES))


def give_back_from(size: int) -> None:
    """Give each block of at least `size` bytes back as soon as it is free, and let it grow without a copy.

    For a process that holds many large blocks of many sizes, and none for long: in the heap they would leave gaps. Call
    it after `keep_memory_level`, which decides otherwise.
    """
    _set((_M_MMAP_THRESHOLD, size))


def _set(*parameters: tuple[int, int]) -> None:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for name, value in parameters:
            mallopt(name, value)
