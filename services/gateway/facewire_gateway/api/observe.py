"""The outermost layer of each request: its id, its log line, its metrics, and headers that every answer has."""

import time
import uuid

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from facewire.domain.names import MAX_REQUEST_ID
from facewire_gateway import metrics

_log = structlog.get_logger(__name__)

_SERVER_FAULT = 500
#: The page loads its own files and nothing else; `blob:` is the picture that somebody chose.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class Observe:
    """ASGI middleware: `request.state.request_id` is the `X-Request-Id` of the client, or a new UUID4."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        state["request_id"] = _request_id(scope)
        started = time.perf_counter()
        status = _SERVER_FAULT

        async def send_observed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = int(message["status"])
                _add_headers(MutableHeaders(scope=message), state["request_id"])
            await send(message)

        try:
            await self._app(scope, receive, send_observed)
        finally:
            _note(scope, status, time.perf_counter() - started)


def _request_id(scope: Scope) -> str:
    """Return the client's own id or a new one; what is too long to name a request is cut and refused where it would."""
    given = Headers(scope=scope).get("x-request-id")
    return given[: MAX_REQUEST_ID + 1] if given else str(uuid.uuid4())


def _add_headers(headers: MutableHeaders, request_id: str) -> None:
    headers["X-Content-Type-Options"] = "nosniff"
    headers["Content-Security-Policy"] = _POLICY
    headers["Referrer-Policy"] = "no-referrer"
    headers.setdefault("Cache-Control", "no-store")
    if request_id.isascii() and request_id.isprintable():
        headers["X-Request-Id"] = request_id


def _note(scope: Scope, status: int, seconds: float) -> None:
    route = getattr(scope.get("route"), "path", None) or "other"
    metrics.REQUESTS.labels(scope["method"], route, str(status)).inc()
    metrics.SECONDS.labels(route).observe(seconds)
    write = _log.warning if status >= _SERVER_FAULT else _log.debug
    request_id = scope["state"]["request_id"]
    write("HTTP request", request_id=request_id, method=scope["method"], route=route, status=status, seconds=seconds)
