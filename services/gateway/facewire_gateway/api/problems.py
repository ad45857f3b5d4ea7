"""Every error of the HTTP API as problem+json (RFC 9457), with the request id, a code and what to do."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, ClassVar

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from facewire.domain.errors import FacewireError

_log = structlog.get_logger(__name__)

#: How the API's description shows errors; every route has it.
PROBLEM_RESPONSES: dict[int | str, dict[str, Any]] = {
    "4XX": {
        "description": "What is wrong with the request, and what to do",
        "content": {
            "application/problem+json": {
                "schema": {
                    "type": "object",
                    "required": ["type", "title", "status", "code", "detail", "request_id"],
                    "properties": {
                        **{name: {"type": "string"} for name in ("type", "title", "code", "detail", "request_id")},
                        "status": {"type": "integer"},
                    },
                }
            }
        },
    }
}
_RETRY_AFTER_SECONDS = "2"


class GatewayError(FacewireError):
    """The gateway refuses a request; `fields` are further members of the problem."""

    stage: ClassVar[str] = "gateway"

    def __init__(self, code: str, detail: str, **fields: Any) -> None:
        super().__init__(code, detail)
        self.fields = fields


def problem(  # noqa: PLR0913 - the members of a problem
    request: Request,
    status: int,
    code: str,
    detail: str,
    *,
    headers: Mapping[str, str] | None = None,
    fields: Mapping[str, Any] | None = None,
) -> JSONResponse:
    """Return the problem+json of one error; `code` is for programs, `detail` for people."""
    body = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": int(status),
        "code": code,
        "detail": detail,
        "request_id": getattr(request.state, "request_id", None),
        **(fields or {}),
    }
    return JSONResponse(body, status, headers=headers, media_type="application/problem+json")


def add_problem_handlers(app: FastAPI) -> None:
    """Make `app` answer every error with a problem."""
    app.add_exception_handler(FacewireError, _on_facewire_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(ClientDisconnect, _on_disconnect)
    app.add_exception_handler(Exception, _on_fault)


async def _on_facewire_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, FacewireError)  # noqa: S101 - registered for this class
    status = error.kind.status
    headers = {}
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers["Retry-After"] = _RETRY_AFTER_SECONDS
    if status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = 'Bearer realm="facewire"'
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        facts = {"stage": error.stage, "code": error.code, "detail": error.detail}
        _log.error("a request failed", request_id=request.state.request_id, **facts)
    fields = {"stage": error.stage, **getattr(error, "fields", {})}
    return problem(request, status, error.code, error.public, headers=headers, fields=fields)


async def _on_validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for this class
    faults = [_fault(found) for found in error.errors()]
    detail = "; ".join(f"{fault['field']}: {fault['reason']}" for fault in faults)
    status = HTTPStatus.UNPROCESSABLE_ENTITY
    return problem(request, status, "bad_request", detail, fields={"stage": "gateway", "errors": faults})


def _fault(found: Mapping[str, Any]) -> dict[str, str]:
    location: Sequence[object] = found["loc"]
    field = ".".join(str(part) for part in location[1:]) or str(location[0])
    return {"field": field, "reason": str(found["msg"]).removeprefix("Value error, ")}


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for this class
    if error.status_code == HTTPStatus.NOT_FOUND:
        return _no_such_page(request)
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = (error.headers or {}).get("Allow", "")
        detail = f"{request.method} is not for {request.url.path}: use {allowed or 'another method'}"
        return problem(request, error.status_code, "method_not_allowed", detail, headers=error.headers)
    code = HTTPStatus(error.status_code).phrase.lower().replace(" ", "_")
    return problem(request, error.status_code, code, str(error.detail), headers=error.headers)


def _no_such_page(request: Request) -> Response:
    raw_path: bytes = request.scope.get("raw_path") or b""
    if b"%2f" in raw_path.lower():
        status, detail = HTTPStatus.UNPROCESSABLE_ENTITY, "a name or an id in the address must not hold '/'"
        return problem(request, status, "bad_name", detail, fields={"stage": "gateway"})
    if "//" in request.url.path:
        status, detail = HTTPStatus.UNPROCESSABLE_ENTITY, "a name or an id in the address is empty"
        return problem(request, status, "bad_name", detail, fields={"stage": "gateway"})
    detail = f"there is nothing at {request.url.path}: /docs lists what there is"
    return problem(request, HTTPStatus.NOT_FOUND, "no_such_page", detail)


async def _on_disconnect(_request: Request, _error: Exception) -> Response:
    return Response(status_code=HTTPStatus.BAD_REQUEST)


async def _on_fault(request: Request, error: Exception) -> Response:
    _log.error("a fault of the server", request_id=request.state.request_id, error=type(error).__name__)
    detail = "the server failed on this request: its log has the request id"
    return problem(request, HTTPStatus.INTERNAL_SERVER_ERROR, "internal_error", detail)
