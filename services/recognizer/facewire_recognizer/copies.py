"""Copies of messages whose request has been answered: queues and hand-overs bring some messages more than once."""

import asyncio

import structlog

from facewire.domain.errors import StoreError
from facewire.domain.failures import error_name
from facewire.domain.lifecycle import Detected, RequestState
from facewire.domain.messages import DetectedFaces
from facewire.domain.ports import ResultStore

#: A store that takes longer is not waited for: to recognise the faces once more does no harm.
_LOOK_UP_SECONDS = 1.0

_log = structlog.get_logger()


async def is_answered(message: DetectedFaces, results: ResultStore) -> bool:
    """Return whether `results` holds a recognizer's answer to this very frame; False where they cannot tell.

    A frame received later than the one answered is a new request, even if id and picture are the same.
    """
    try:
        async with asyncio.timeout(_LOOK_UP_SECONDS):
            known = await results.get(message.request_id)
    except (StoreError, TimeoutError) as error:
        _log.warning("not known whether a request is answered", request_id=message.request_id, error=error_name(error))
        return False
    return RequestState(known).on(Detected(message)).outcome == "answered"
