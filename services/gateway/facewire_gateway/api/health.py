"""GET /healthz, /readyz and /metrics."""

from fastapi import APIRouter, Depends
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST

from facewire.runtime.readiness import metrics_of, readiness_of
from facewire_gateway.api.auth import require
from facewire_gateway.api.deps import Parts

router = APIRouter(tags=["health"])


@router.head("/healthz", include_in_schema=False)
@router.get("/healthz")
async def get_health() -> dict[str, str]:
    """Say that the process is alive."""
    return {"status": "alive"}


@router.head("/readyz", include_in_schema=False)
@router.get("/readyz", responses={503: {"description": "A dependency is not ready"}})
async def get_readiness(gateway: Parts) -> JSONResponse:
    """Say whether everything the gateway needs is there; each dependency is named, with what it lacks."""
    ready, body = await readiness_of(gateway.readiness)
    return JSONResponse(body, 200 if ready else 503)


@router.get("/metrics", dependencies=[Depends(require("read"))])
async def get_metrics(gateway: Parts) -> Response:
    """Return the metrics of the process in Prometheus's text format; with keys this needs one that may read."""
    return Response(await metrics_of(gateway.depths), headers={"Content-Type": CONTENT_TYPE_LATEST})
