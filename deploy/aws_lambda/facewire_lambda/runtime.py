"""One container of a function: models and clients are opened once, on the one event loop that every event runs on."""

import asyncio
import atexit
import contextvars
import os
import sys
import time
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any, Protocol, Self

import structlog
from structlog.contextvars import bound_contextvars

from facewire.domain.errors import FacewireError
from facewire.domain.failures import error_name, error_origin
from facewire.runtime.logs import configure_logging
from facewire.runtime.process import keep_memory_level
from facewire_lambda.emf import Metrics
from facewire_lambda.settings import LambdaSettings

_log = structlog.get_logger(__name__)

Event = dict[str, Any]
#: Handles one event and returns the function's result, as JSON knows it.
Function = Callable[[Event], Coroutine[Any, Any, Any]]
#: Opens what a function needs for as long as its container lives.
OpenFunction = Callable[[LambdaSettings, Metrics], AbstractAsyncContextManager[Function]]


class Context(Protocol):
    """What is used of the object that the Lambda runtime hands over with each event."""

    aws_request_id: str


class Container:
    """A function that is open, as the Lambda runtime calls it. Events come one at a time.

    Between two events AWS may stop the container's time. What a function raises goes to the runtime, which reports its
    class and text.
    """

    def __init__(self, open_function: OpenFunction, settings: LambdaSettings, metrics: Metrics) -> None:
        started = time.perf_counter()
        self._metrics = metrics
        self._runner = asyncio.Runner()
        self._opened = AsyncExitStack()
        self._function = self._runner.run(self._open(open_function(settings, metrics)))
        metrics.time("InitMs", (time.perf_counter() - started) * 1000)

    @classmethod
    def start(cls, open_function: OpenFunction) -> Self:
        """Open the function with the settings of the environment, until the process ends; SettingsError, ModelError."""
        settings = LambdaSettings.read()
        configure_logging(settings.log_level, settings.log_format)
        keep_memory_level()
        container = cls(open_function, settings, Metrics(os.environ.get("AWS_LAMBDA_FUNCTION_NAME", "facewire")))
        atexit.register(container.close)
        return container

    async def _open(self, function: AbstractAsyncContextManager[Function]) -> Function:
        return await self._opened.enter_async_context(function)

    def __call__(self, event: Event, context: Context) -> Any:
        """Return the function's result."""
        with bound_contextvars(aws_request_id=context.aws_request_id):
            try:
                return self._runner.run(self._function(event), context=contextvars.copy_context())
            except Exception as error:
                self._metrics.count("Faults")
                facts = {"error": error_name(error), "at": error_origin(error)}
                detail = error.detail if isinstance(error, FacewireError) else None
                _log.error("an event failed", detail=detail, **facts)
                raise
            finally:
                self._metrics.flush()

    def close(self) -> None:
        """Close what was opened."""
        self._runner.run(self._opened.aclose())
        self._runner.close()


class Handler:
    """What AWS Lambda calls. It is opened while AWS starts the container, or else by the first event.

    A module may hold several: only the one that the container is for is opened as the module is imported.
    """

    def __init__(self, open_function: OpenFunction) -> None:
        self.open_function = open_function
        self._container: Container | None = None
        self.__doc__ = open_function.__doc__
        if _wanted() == f"{open_function.__module__}.{open_function.__name__}":
            self.open()

    def open(self) -> Self:
        """Open the function unless it is; return the handler."""
        if self._container is None:
            self._container = Container.start(self.open_function)
        return self

    def __call__(self, event: Event, context: Context) -> Any:
        """Return the function's result for one event."""
        self.open()
        assert self._container is not None  # noqa: S101 - it has just been opened
        return self._container(event, context)


def _wanted() -> str:
    """Return the name of the handler that the container is for, "" where nobody says.

    `_HANDLER` says it to functions that are archives. In those that are images AWS leaves it blank: there it is the
    argument of the runtime client.
    """
    return os.environ.get("_HANDLER") or next(iter(sys.argv[1:]), "")
