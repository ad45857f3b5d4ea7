"""Answers on their way from a queue of this machine to the response queue."""

import asyncio
from collections.abc import Callable, Sequence

import structlog

from facewire.domain.errors import QueueError
from facewire.domain.failures import answer_given_up
from facewire.domain.messages import Source
from facewire.domain.queue_ports import Lease, PartialError, Queue, Sender
from facewire.runtime.backoff import growing_pauses, happens_within, uninterrupted
from facewire.work.delivery import note_queue_error

STAGE = "forward"
_BATCH = 10
#: A stop is noticed after at most this long without a message.
_WAIT_SECONDS = 1.0
_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 5.0
#: How long a batch that is under way when the forwarding is cancelled may take.
_GRACE_SECONDS = 1.0

_log = structlog.get_logger(__name__)


async def forward_answers(answers: Queue, responses: Sender, stop: asyncio.Event) -> None:
    """Send what comes over `answers` to `responses`, and only then delete it, until `stop` is set and it is empty.

    While `responses` is out of reach it is tried again until the stop; what is left stays in `answers`, and an outage
    does not count as a receive. An answer that `responses` refuses for good is deleted and logged.
    """
    await _forward(answers, responses, stop, lambda body: body)


async def forward_dead_letters(dead: Queue, responses: Sender, stop: asyncio.Event, *, source: Source) -> None:
    """Do the same for messages that were given up: answers go as they are, to all others goes `failed: dead_letter`.

    One that names no request is deleted and logged.
    """

    def answer_in(body: bytes) -> bytes | None:
        answer = answer_given_up(body, source)
        _log.error("a message was given up", request_id=None if answer is None else answer.request_id)
        return None if answer is None else answer.to_bytes()

    await _forward(dead, responses, stop, answer_in)


async def _forward(
    queue: Queue, responses: Sender, stop: asyncio.Event, answer_in: Callable[[bytes], bytes | None]
) -> None:
    pauses = growing_pauses(_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS)
    while True:
        last = stop.is_set()
        try:
            if leases := await queue.receive(_BATCH, wait=0 if last else _WAIT_SECONDS):
                found = await asyncio.to_thread(lambda leases: [answer_in(lease.body) for lease in leases], leases)
                moving = _move(queue, leases, responses, found)
                await uninterrupted(moving, cancelled=asyncio.Event(), grace=_GRACE_SECONDS)
            elif last:
                return
            pauses = growing_pauses(_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS)
        except QueueError as error:
            note_queue_error(STAGE, "send", error)
            if await happens_within(stop, next(pauses)) and last:
                return


async def _move(queue: Queue, leases: Sequence[Lease], responses: Sender, bodies: Sequence[bytes | None]) -> None:
    """Send the bodies and delete their messages; give back those of which `responses` takes the body later only."""
    sends = [(lease, body) for lease, body in zip(leases, bodies, strict=True) if body is not None]
    try:
        await responses.send([body for _, body in sends])
    except PartialError as error:
        if error.refused:
            _log.error("answers were refused, and are lost", answers=len(error.refused), detail=error.detail)
        left = [sends[position][0] for position in error.left]
        await queue.acknowledge([lease for lease in leases if lease not in left])
        if not left:
            return
        await queue.give_back(left, unused=True)
        raise
    except QueueError:
        await queue.give_back(leases, unused=True)
        raise
    await queue.acknowledge(leases)
