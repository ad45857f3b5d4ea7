"""SIGTERM and SIGINT become a stop event: the first asks for an orderly stop, a second ends the process at once."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

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
