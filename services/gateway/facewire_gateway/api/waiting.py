"""Waiting for an answer on behalf of a client, for no longer than the client is there."""

import asyncio

import structlog
from fastapi import Request

from facewire.domain.failures import error_name, error_origin
from facewire.domain.messages import RecognizedFaces
from facewire_gateway.delivery.feed import Feed

_log = structlog.get_logger(__name__)


async def wait_after_commit(request: Request, feed: Feed, request_id: str, seconds: float) -> RecognizedFaces | None:
    """Do as `wait_for_answer` for a request that is committed: None, too, whatever the wait runs into.

    It will be answered; told of a failure, its sender would send it again, and enrol a face twice.
    """
    try:
        return await wait_for_answer(request, feed, request_id, seconds)
    except Exception as error:  # noqa: BLE001 - logged; nothing that goes wrong now may hide the commit
        _log.warning(
            "the wait for an answer failed", request_id=request_id, error=error_name(error), at=error_origin(error)
        )
        return None


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
