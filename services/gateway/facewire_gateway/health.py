"""GET /healthz, /readyz and /metrics."""

import asyncio

import structlog
from fastapi import APIRouter, Depends
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from facewire.errors import FacewireError
from facewire_gateway import metrics
from facewire_gateway.auth import require
from facewire_gateway.deps import Depth, Parts, Readiness

_log = structlog.get_logger(__name__)
router = APIRouter(tags=["health"])

_CHECK_SECONDS = 2.0


@router.head("/healthz", include_in_schema=False)
@router.get("/healthz")
async def get_health() -> dict[str, str]:
    """Say that the process is alive."""
    return {"status": "alive"}


@router.head("/readyz", include_in_schema=False)
@router.get("/readyz", responses={503: {"description": "A dependency is not ready"}})
async def get_readiness(gateway: Parts) -> JSONResponse:
    """Say whether everything the gateway needs is there; each dependency is named, with what it lacks."""
    reasons = await asyncio.gather(*(_reason(check) for check in gateway.readiness.values()))
    dependencies = {name: reason or "ready" for name, reason in zip(gateway.readiness, reasons, strict=True)}
    ready = not any(reasons)
    body = {"status": "ready" if ready else "not_ready", "dependencies": dependencies}
    return JSONResponse(body, 200 if ready else 503)


@router.get("/metrics", dependencies=[Depends(require("read"))])
async def get_metrics(gateway: Parts) -> Response:
    """Return the metrics of the process in Prometheus's text format; with keys this needs one that may read."""
    await asyncio.gather(*(_measure(name, depth) for name, depth in gateway.depths.items()))
    return Response(generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})


async def _reason(check: Readiness) -> str | None:
    try:
        async with asyncio.timeout(_CHECK_SECONDS):
            return await check()
    except TimeoutError:
        return f"no answer within {_CHECK_SECONDS:g} s"
    except FacewireError as error:
        return str(error)


async def _measure(name: str, depth: Depth) -> None:
    try:
        async with asyncio.timeout(_CHECK_SECONDS):
            found = await depth()
    except (FacewireError, TimeoutError) as error:
        _log.warning("the depth of a queue is not known", queue=name, error=type(error).__name__)
        return
    for state in ("waiting", "leased", "dead"):
        metrics.QUEUE_MESSAGES.labels(name, state).set(getattr(found, state))
    metrics.QUEUE_BYTES.labels(name).set(found.bytes)
