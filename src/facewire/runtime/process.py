"""What the processes of the services have in common: settings are read, a signal ends them, a line says why not."""

import asyncio
import sys
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from facewire.domain.errors import FacewireError
from facewire.runtime.allocator import keep_memory_level
from facewire.runtime.exits import leaves, tell
from facewire.runtime.logs import configure_logging
from facewire.runtime.settings import Settings
from facewire.runtime.shutdown import stop_on_signals

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
