"""Waiting for an answer on behalf of a client, for no longer than the client is there."""

import asyncio

from fastapi import Request

from facewire.domain.messages import RecognizedFaces
from facewire_gateway.delivery.feed import Feed


async def wait_for_answer(request: Request, feed: Feed, request_id: str, seconds: float) -> RecognizedFaces | None:
    """Return the answer to `request_id` if it comes within `seconds` and before the client hangs up, else None.

    Call it once the request's body has been read.
    """
    if not seconds:
        return None
    answer = asyncio.create_task(feed.wait_for(request_id, seconds), name=f"wait for {request_id}")
    gone = asyncio.create_task(_client_gone(request), name=f"client of {request_id}")
    try:
        await asyncio.wait((answer, gone), return_when=asyncio.FIRST_COMPLETED)
        return answer.result() if answer.done() else None
    finally:
        answer.cancel()
        gone.cancel()
        await asyncio.wait((answer, gone))


async def _client_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
