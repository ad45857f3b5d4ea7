"""What a process tells of itself: what it lacks to be ready, how much its queues hold, and its metrics."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

import structlog
from prometheus_client import generate_latest

from facewire.domain.errors import FacewireError
from facewire.domain.failures import error_name, error_origin
from facewire.runtime import metrics

_CHECK_SECONDS = 2.0

_log = structlog.get_logger(__name__)


class QueueDepth(Protocol):
    """How many messages are in a queue; some tell `delayed` ones and `bytes` as well."""

    @property
    def waiting(self) -> int:
        """Messages that can be received."""

    @property
    def leased(self) -> int:
        """Messages on loan."""

    @property
    def dead(self) -> int:
        """Dead letters."""


#: Returns None where the dependency is ready, else why it is not.
Readiness = Callable[[], Awaitable[str | None]]
Depth = Callable[[], Awaitable[QueueDepth]]


async def still_loading() -> str | None:
    """Say that the models of the process are not loaded yet."""
    return "still loading"


async def readiness_of(checks: Mapping[str, Readiness]) -> tuple[bool, dict[str, object]]:
    """Return whether every dependency is ready, and the body that says so: each is named, with what it lacks."""
    checks = dict(checks)  # which may change meanwhile
    reasons = await asyncio.gather(*(_reason(check) for check in checks.values()))
    dependencies = {name: reason or "ready" for name, reason in zip(checks, reasons, strict=True)}
    ready = not any(reasons)
    return ready, {"status": "ready" if ready else "not_ready", "dependencies": dependencies}


async def metrics_of(depths: Mapping[str, Depth]) -> bytes:
    """Return all metrics of the process in Prometheus's text format, with the depths of the queues as they are now."""
    await asyncio.gather(*(_measure(name, depth) for name, depth in depths.items()))
    return generate_latest()


async def _reason(check: Readiness) -> str | None:
    try:
        async with asyncio.timeout(_CHECK_SECONDS):
            return await check()
    except TimeoutError:
        return f"no answer within {_CHECK_SECONDS:g} s"
    except FacewireError as error:
        _log.warning("a dependency is not ready", error=error_name(error), detail=error.detail)
        return f"{error_name(error)}: {error.public}"
    except Exception as error:  # noqa: BLE001 - logged; what cannot be told whether it is ready is not
        _log.error("a readiness check failed", error=error_name(error), at=error_origin(error))
        return f"the check failed: {error_name(error)}"


async def _measure(name: str, depth: Depth) -> None:
    try:
        async with asyncio.timeout(_CHECK_SECONDS):
            found = await depth()
    except Exception as error:  # noqa: BLE001 - logged; the other metrics are told all the same
        _log.warning("the depth of a queue is not known", queue=name, error=error_name(error), at=error_origin(error))
        return
    for state in ("waiting", "leased", "delayed", "dead"):
        if hasattr(found, state):
            metrics.QUEUE_MESSAGES.labels(name, state).set(getattr(found, state))
    if hasattr(found, "bytes"):
        metrics.QUEUE_BYTES.labels(name).set(found.bytes)
