"""GET /v1/results: the answer to one request, and the history."""

import json
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import AwareDatetime

from facewire.domain.messages import Camera, Person, RecognizedFaces, RequestId, Status
from facewire.domain.ports import Result, ResultQuery
from facewire_gateway.api.auth import require
from facewire_gateway.api.deps import Parts, Wait
from facewire_gateway.api.problems import GatewayError
from facewire_gateway.api.waiting import wait_for_answer

router = APIRouter(tags=["results"])

MAX_PAGE = 200


@router.get(
    "/v1/results/{request_id}",
    dependencies=[Depends(require("ingest", "read"))],
    response_model=RecognizedFaces,
)
async def get_result(request: Request, gateway: Parts, request_id: RequestId, wait: Wait = 0) -> Response:
    """Answer with what is known of a request: `status` is pending, done or failed.

    404 for an id that was never seen, 410 for one whose answer is no longer kept.
    """
    request.state.request_id = request_id
    result = await gateway.results.get(request_id)
    if result is None:
        raise GatewayError("unknown_request", f"no request {request_id!r} was ever seen here")
    if result.status == "expired":
        kept = f"{gateway.settings.results_days:g} days"
        raise GatewayError("expired", f"the answer to {request_id!r} is no longer kept: answers stay for {kept}")
    answer = result.answer or await wait_for_answer(request, gateway.feed, request_id, wait)
    if answer is not None:
        return Response(answer.to_bytes(), media_type="application/json")
    return JSONResponse(_pending(result))


@router.get("/v1/results", dependencies=[Depends(require("read"))])
async def list_results(  # noqa: PLR0913, PLR0917 - one parameter a filter, all named by FastAPI
    gateway: Parts,
    camera: Camera | None = None,
    person: Person | None = None,
    status: Status | None = None,
    since: AwareDatetime | None = None,
    until: AwareDatetime | None = None,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 50,
    cursor: Annotated[str | None, Query(max_length=1024)] = None,
) -> dict[str, Any]:
    """List results, newest first, a page at a time; times are inclusive and compare with when a frame was received.

    `cursor` of the answer leads to the next page and is null after the last.
    """
    query = ResultQuery(camera, person, status, since, until, limit, cursor)
    page = await gateway.results.page(query)
    return {"results": [_shown(result) for result in page.results], "cursor": page.cursor}


def _shown(result: Result) -> dict[str, Any]:
    if result.answer is None:
        return _pending(result)
    shown: dict[str, Any] = json.loads(result.answer.to_bytes())
    return shown


def _pending(result: Result) -> dict[str, Any]:
    return {
        "request_id": result.request_id,
        "status": result.status,
        "camera": result.camera,
        "received_at": result.received_at.isoformat(),
    }
