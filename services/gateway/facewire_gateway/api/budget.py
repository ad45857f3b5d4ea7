"""Request bodies in memory at the same time: a bound on their bytes, and an end to their reading at the stop."""

import asyncio

from fastapi import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from facewire.domain.messages import MAX_FRAME_BYTES
from facewire_gateway.api.problems import GatewayError

#: 25 of the largest images at once, or 2,600 of 100 kB. Beside the body itself its Frame and the inbox's copy take as
#: much again each.
MAX_BYTES_IN_HAND = 25 * MAX_FRAME_BYTES


class Bodies:
    """The request bodies that are arriving or in hand."""

    def __init__(self) -> None:
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
        bodies, mine, complete = self._bodies, 0, False

        def release() -> None:
            nonlocal mine
            bodies.bytes -= mine
            mine = 0

        async def receive_counted() -> Message:
            nonlocal mine, complete
            message = await (receive() if complete else bodies.receive(receive))
            complete = not message.get("more_body", False)
            size = len(message.get("body", b""))
            mine += size
            bodies.bytes += size
            if bodies.bytes > MAX_BYTES_IN_HAND:
                detail = f"uploads of {bodies.bytes:,} bytes are in hand, at most {MAX_BYTES_IN_HAND:,} are taken"
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
