"""GET /v1/events: answers as server-sent events (WHATWG HTML, "Server-sent events")."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Request
from fastapi.responses import StreamingResponse

from facewire.domain.messages import Camera, Person
from facewire_gateway.api.auth import is_still_allowed, require
from facewire_gateway.api.deps import Parts
from facewire_gateway.delivery.feed import Event, Overflow, Subscription

router = APIRouter(tags=["results"])

#: A comment this often keeps proxies from cutting a silent stream.
HEARTBEAT_SECONDS = 15.0


async def _subscription(
    gateway: Parts,
    camera: Camera | None = None,
    person: Person | None = None,
    last_event_id: Annotated[str | None, Header(max_length=64)] = None,
) -> AsyncIterator[Subscription]:
    """Subscribe before the answer begins, while it can still be a refusal, and until it has ended."""
    with gateway.feed.subscribe(camera=camera, person=person, after=last_event_id) as subscription:
        yield subscription


@router.get(
    "/v1/events",
    dependencies=[Depends(require("read"))],
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}},
)
async def get_events(
    request: Request, subscription: Annotated[Subscription, Depends(_subscription)]
) -> StreamingResponse:
    """Stream each new answer as an event `result`, of one camera or with one person if asked.

    An event `overflow` says that answers were left out, because the reader was too slow or came back too late with its
    `Last-Event-ID`: they are in the history.
    """
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    stream = _while_allowed(request, _stream(subscription))
    return StreamingResponse(stream, media_type="text/event-stream", headers=headers)


async def _while_allowed(request: Request, stream: AsyncGenerator[bytes, None]) -> AsyncIterator[bytes]:
    """End `stream` where its next event or heartbeat comes after the key was removed."""
    async with aclosing(stream):
        async for chunk in stream:
            if not is_still_allowed(request):
                return
            yield chunk


async def _stream(subscription: Subscription) -> AsyncGenerator[bytes, None]:
    yield b": connected\n\n"
    while True:
        try:
            async with asyncio.timeout(HEARTBEAT_SECONDS):
                item = await subscription.next()
        except TimeoutError:
            yield b": still here\n\n"
            continue
        if item is None:
            return
        yield _encode(item)


def _encode(item: Event | Overflow) -> bytes:
    if isinstance(item, Overflow):
        return b"event: overflow\ndata: " + json.dumps({"lost": item.lost}).encode() + b"\n\n"
    return b"event: result\nid: " + item.id.encode() + b"\ndata: " + item.answer.to_bytes() + b"\n\n"
