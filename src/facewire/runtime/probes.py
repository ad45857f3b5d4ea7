"""`/healthz`, `/readyz` and `/metrics` of processes that serve nothing else over HTTP.

A request is a GET or HEAD of at most 8 KiB that comes within five seconds; each connection carries one, and at most
32 are open. What does not keep to that is closed.
"""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus

import structlog
from prometheus_client import CONTENT_TYPE_LATEST

from facewire.domain.errors import SettingsError
from facewire.runtime.background import background
from facewire.runtime.readiness import Depth, Readiness, metrics_of, readiness_of
from facewire.runtime.settings import ProbeSettings

MAX_HEAD_BYTES = 8 * 1024
MAX_CONNECTIONS = 32
_REQUEST_SECONDS = 5.0
_JSON = "application/json"

_log = structlog.get_logger(__name__)


@asynccontextmanager
async def serving_probes(
    settings: ProbeSettings, *, readiness: Mapping[str, Readiness], depths: Mapping[str, Depth]
) -> AsyncIterator[str]:
    """Answer probes while the block runs; yield the address. Both mappings may be added to meanwhile.

    SettingsError `probe_port` where the address cannot be used.
    """
    address = (settings.probe_host, settings.probe_port)
    family = socket.AF_INET6 if ":" in settings.probe_host else socket.AF_INET
    try:
        listener = socket.create_server(address, family=family)
    except OSError as error:
        detail = f"cannot listen on {address[0]}:{address[1]}: {error.strerror or error}"
        raise SettingsError("probe_port", detail) from error
    host, port = listener.getsockname()[:2]
    with listener:
        async with background(_Probes(readiness, depths).serve(listener), name="probes"):
            yield f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@dataclass(frozen=True, slots=True)
class _Answer:
    status: HTTPStatus
    body: bytes
    media_type: str = "text/plain; charset=utf-8"

    def to_bytes(self, *, head: bool) -> bytes:
        """Return the response; for HEAD without the body."""
        said = (
            f"HTTP/1.1 {self.status.value} {self.status.phrase}\r\nContent-Type: {self.media_type}\r\n"
            f"Content-Length: {len(self.body)}\r\nConnection: close\r\n\r\n"
        )
        return said.encode() + (b"" if head else self.body)


@dataclass(slots=True)
class _Probes:
    readiness: Mapping[str, Readiness]
    depths: Mapping[str, Depth]
    open: set[asyncio.Task[None]] = field(default_factory=set)

    async def serve(self, listener: socket.socket) -> None:
        """Serve until cancelled; connections end with it."""
        async with asyncio.TaskGroup() as tasks:

            def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                if len(self.open) >= MAX_CONNECTIONS:
                    writer.close()
                    return
                task = tasks.create_task(self._handle(reader, writer), name="probe")
                self.open.add(task)
                task.add_done_callback(self.open.discard)

            server = await asyncio.start_server(connected, sock=listener, limit=MAX_HEAD_BYTES)
            try:
                await asyncio.Event().wait()
            finally:
                server.close()

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_REQUEST_SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(await self._answer(head))
                await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            _log.debug("a probe was cut off", error=type(error).__name__)
        finally:
            writer.close()

    async def _answer(self, head: bytes) -> bytes:
        method, _, rest = head.partition(b" ")
        if method not in {b"GET", b"HEAD"}:
            return _Answer(HTTPStatus.METHOD_NOT_ALLOWED, b"GET or HEAD\n").to_bytes(head=False)
        path = rest.split(b" ", 1)[0].split(b"?", 1)[0]
        return (await self._look_up(path)).to_bytes(head=method == b"HEAD")

    async def _look_up(self, path: bytes) -> _Answer:
        match path:
            case b"/healthz":
                return _Answer(HTTPStatus.OK, _json({"status": "alive"}), _JSON)
            case b"/readyz":
                ready, body = await readiness_of(self.readiness)
                return _Answer(HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE, _json(body), _JSON)
            case b"/metrics":
                return _Answer(HTTPStatus.OK, await metrics_of(self.depths), CONTENT_TYPE_LATEST)
            case _:
                return _Answer(HTTPStatus.NOT_FOUND, b"there are /healthz, /readyz and /metrics\n")


def _json(body: Mapping[str, object]) -> bytes:
    return json.dumps(body).encode() + b"\n"
