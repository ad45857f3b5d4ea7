"""POST /v1/frames: take a frame in, answer 202 once it is committed, or 200 if the answer comes in time."""

from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel

from facewire.domain.messages import Camera, RecognizedFaces
from facewire_gateway.api.auth import require
from facewire_gateway.api.budget import release_body
from facewire_gateway.api.deps import Parts, Wait
from facewire_gateway.api.upload import read_frame
from facewire_gateway.api.waiting import wait_after_commit

router = APIRouter(tags=["frames"])

_IMAGE = {"schema": {"type": "string", "format": "binary"}}
_JSON = {
    "type": "object",
    "required": ["content"],
    "properties": {
        "request_id": {"type": "string", "description": "1 to 128 printable characters without '/', '+', '#'"},
        "filename": {"type": "string", "maxLength": 255},
        "content": {"type": "string", "format": "byte", "description": "base64; `encoded` is taken for it"},
        "captured_at": {"type": "string", "format": "date-time"},
    },
}
_FORM = {
    "type": "object",
    "required": ["file"],
    "properties": {"file": {"type": "string", "format": "binary"}, "request_id": {"type": "string"}},
}
#: The bodies that carry a picture, for the API's description.
PICTURE_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {"schema": _FORM},
            "application/json": {"schema": _JSON},
            "image/jpeg": _IMAGE,
            "image/png": _IMAGE,
            "image/webp": _IMAGE,
        },
    }
}


class Accepted(BaseModel):
    """A frame is committed; its answer will be at `location`."""

    request_id: str
    status: str = "pending"
    location: str


def location_of(request_id: str) -> str:
    """Return the path of the answer to `request_id`."""
    return f"/v1/results/{quote(request_id, safe='')}"


@router.post(
    "/v1/frames",
    dependencies=[Depends(require("ingest"))],
    status_code=202,
    response_description="Committed; the answer will be at `location`",
    response_model=Accepted,
    responses={200: {"model": RecognizedFaces, "description": "The answer came within `wait` seconds"}},
    openapi_extra=PICTURE_BODY,
)
async def post_frame(
    request: Request,
    gateway: Parts,
    wait: Wait = 0,
    camera: Annotated[Camera | None, Query(description="Also send the answer to clients/<camera>/results")] = None,
) -> Response:
    """Recognise the faces in a picture of at most 10 MiB and 40 megapixels.

    The same request id with the same picture is the same request: it gets the same answer. Without a camera the answer
    goes nowhere but into the results.
    """
    frame = await read_frame(request, camera=camera)
    await gateway.sink.accept(frame)
    request_id = frame.request_id
    # A long poll must not keep the picture in memory.
    del frame
    release_body(request)
    answer = await wait_after_commit(request, gateway.feed, request_id, wait)
    headers = {"Location": location_of(request_id)}
    if answer is not None:
        return Response(answer.to_bytes(), media_type="application/json", headers=headers)
    accepted = Accepted(request_id=request_id, location=headers["Location"])
    return JSONResponse(accepted.model_dump(), 202, headers=headers)
