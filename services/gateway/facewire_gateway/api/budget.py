"""Request bodies in memory at the same time: a bound on their bytes, and an end to their reading at the stop."""

import asyncio
import os
from pathlib import Path

from fastapi import Request
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from facewire_gateway.api.problems import GatewayError

#: For 45 of the largest images at once, or 18 of them as JSON.
_MAX_BYTES = 512 * 1024 * 1024


def memory_limit(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Return how many bytes of memory this process may take: its cgroup's limit (v2, else v1), or the machine's."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            limit = (cgroup / name).read_text().strip()
        except OSError:  # another version of cgroups, or none
            continue
        return min(physical, int(limit)) if limit.isdecimal() else physical
    return physical


def memory_of(content_type: str, size: int) -> int:
    """Return the most bytes that a body of that size takes until its frame is committed.

    A body grows in a buffer an eighth larger, which becomes the image. JSON is there twice: as bytes and as text, then
    as text and as a value, then as a value and as the image.
    """
    return 2 * size if content_type.startswith("application/json") else size + size // 8


class Bodies:
    """The request bodies that are arriving or in flight: `bytes` is the memory they count for, `most` its bound.

    Half of `memory` is theirs. The process itself takes 110 MiB, and the copies of the frames that are being written
    (one at a time) and handed over (four) take a further 130 MiB if all are of the largest kind.
    """

    def __init__(self, memory: int) -> None:
        self.most = min(memory // 2, _MAX_BYTES)
        self.bytes = 0
        self._arriving: set[asyncio.Timeout] = set()
        self._closed = False

    async def receive(self, receive: Receive) -> Message:
        """Return the next part of a body that is not complete.

        GatewayError `overloaded` where it is not here yet and the server stops.
        """
        try:
            async with asyncio.timeout(0 if self._closed else None) as arriving:
                self._arriving.add(arriving)
                try:
                    return await receive()
                finally:
                    self._arriving.discard(arriving)
        except TimeoutError as error:
            raise GatewayError("overloaded", "the server stops, the body is not all here: send it again") from error

    def close(self) -> None:
        """Wait for no further part of any body: the server is about to stop."""
        self._closed = True
        for arriving in self._arriving:
            arriving.reschedule(asyncio.get_running_loop().time())


class BodyBudget:
    """ASGI middleware: who would exceed the bound is refused, `overloaded`, and may try again."""

    def __init__(self, app: ASGIApp, bodies: Bodies) -> None:
        self._app = app
        self._bodies = bodies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; its body counts until it is released, at the latest until it is answered."""
        bodies, mine, taken, complete = self._bodies, 0, 0, False
        kind = Headers(scope=scope).get("content-type", "").strip().lower() if scope["type"] == "http" else ""

        def release() -> None:
            nonlocal mine
            bodies.bytes -= mine
            mine = 0

        async def receive_counted() -> Message:
            nonlocal mine, taken, complete
            message = await (receive() if complete else bodies.receive(receive))
            complete = not message.get("more_body", False)
            size = len(message.get("body", b""))
            more = memory_of(kind, taken + size) - memory_of(kind, taken)
            taken += size
            mine += more
            bodies.bytes += more
            if bodies.bytes > bodies.most:
                detail = f"uploads in flight take {bodies.bytes:,} bytes of memory, at most {bodies.most:,} are given"
                raise GatewayError("overloaded", f"{detail}: send again in a moment")
            return message

        scope.setdefault("state", {})["release_body"] = release
        try:
            await self._app(scope, receive_counted, send)
        finally:
            release()


def release_body(request: Request) -> None:
    """Count the body of `request` no longer: nothing holds it any more, though its answer may take a while."""
    request.state.release_body()
