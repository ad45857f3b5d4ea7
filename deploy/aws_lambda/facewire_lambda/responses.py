"""Where answers go: every response queue gets each of them."""

import asyncio
from collections.abc import Sequence

from facewire.errors import FacewireError, RecognizeError
from facewire.messages import MAX_MESSAGE_BYTES, RecognizedFaces
from facewire.queues import Queue


class Responses:
    """The response queues of a function."""

    def __init__(self, queues: Sequence[Queue]) -> None:
        self._queues = tuple(queues)

    async def send(self, bodies: Sequence[bytes]) -> None:
        """Send the answers to each queue; QueueError where one cannot take them. Send all again then."""
        if bodies:
            await asyncio.gather(*(queue.send(bodies) for queue in self._queues))


def answer_body(answer: RecognizedFaces, error: type[FacewireError] = RecognizeError) -> bytes:
    """Return the answer as a message; an `error` with code `message_too_large` where no queue takes it."""
    body = answer.to_bytes()
    if len(body) > MAX_MESSAGE_BYTES:
        detail = f"the answer would have {len(body):,} bytes, a queue takes {MAX_MESSAGE_BYTES:,}"
        raise error("message_too_large", detail)
    return body
