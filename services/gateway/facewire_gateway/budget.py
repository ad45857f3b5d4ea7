"""A bound on the bytes of all request bodies in memory at the same time."""

from fastapi import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from facewire.messages import MAX_FRAME_BYTES
from facewire_gateway.problems import GatewayError

#: 25 of the largest images at once, or 2,600 of 100 kB. Beside the body itself its Frame and the inbox's copy take as
#: much again each.
MAX_BYTES_IN_HAND = 25 * MAX_FRAME_BYTES


class BodyBudget:
    """ASGI middleware: who would exceed the bound is refused, `overloaded`, and may try again."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._in_hand = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; its body counts until it is released, at the latest until it is answered."""
        mine = 0

        def release() -> None:
            nonlocal mine
            self._in_hand -= mine
            mine = 0

        async def receive_counted() -> Message:
            nonlocal mine
            message = await receive()
            size = len(message.get("body", b""))
            mine += size
            self._in_hand += size
            if self._in_hand > MAX_BYTES_IN_HAND:
                detail = f"uploads of {self._in_hand:,} bytes are in hand, at most {MAX_BYTES_IN_HAND:,} are taken"
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
