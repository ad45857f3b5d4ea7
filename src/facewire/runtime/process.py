"""What the processes of the services have in common: settings are read, a signal ends them, a line says why not."""

import asyncio
import ctypes
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import structlog

from facewire.domain.errors import FacewireError
from facewire.runtime.exits import leaves, tell
from facewire.runtime.logs import configure_logging
from facewire.runtime.settings import Settings

S = TypeVar("S", bound=Settings)


def run_service(settings_class: type[S], service: Callable[[S, asyncio.Event], Coroutine[Any, Any, None]]) -> None:
    """Run `service` with the settings of the environment: all that a `__main__` has to do.

    `service` gets the event that SIGTERM or SIGINT sets and returns once it has stopped. What goes wrong in a named way
    becomes one line on standard error and the exit code; any other error is a fault and leaves its traceback.
    """
    keep_memory_level()
    code = 0
    try:
        asyncio.run(_until_signalled(settings_class.read(), service))
    except* FacewireError as group:
        # Not `sys.exit` here: until 3.11.4 Python wraps what is raised in this block in a group (gh-103590).
        code = tell(list(leaves(group)))
    sys.exit(code)


async def _until_signalled(settings: S, service: Callable[[S, asyncio.Event], Coroutine[Any, Any, None]]) -> None:
    configure_logging(settings.log_level, settings.log_format)
    async with stop_on_signals() as stop:
        await service(settings, stop)


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


_SIGNALS = (signal.SIGTERM, signal.SIGINT)

_log = structlog.get_logger(__name__)


@asynccontextmanager
async def stop_on_signals() -> AsyncIterator[asyncio.Event]:
    """Yield an event that the first SIGTERM or SIGINT sets; the second has its default effect and ends the process.

    Works in the main thread only, as signal handlers do. The handlers of before are put back at the end.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    before = {signum: signal.getsignal(signum) for signum in _SIGNALS}

    def ask_to_stop(received: signal.Signals) -> None:
        _log.info("stopping", signal=received.name)
        stop.set()
        for signum in _SIGNALS:
            loop.remove_signal_handler(signum)
            signal.signal(signum, signal.SIG_DFL)

    for signum in _SIGNALS:
        loop.add_signal_handler(signum, ask_to_stop, signum)
    try:
        yield stop
    finally:
        for signum, handler in before.items():
            loop.remove_signal_handler(signum)
            signal.signal(signum, handler)
