"""Where answers go: every response queue gets each of them."""

import asyncio
from collections.abc import Sequence

from facewire.domain.errors import FacewireError, QueueError, RecognizeError
from facewire.domain.messages import MAX_MESSAGE_BYTES, RecognizedFaces
from facewire.domain.queue_ports import PartialError, Sender


class Responses:
    """The response queues of a function."""

    def __init__(self, queues: Sequence[Sender]) -> None:
        self._queues = tuple(queues)

    async def send(self, body: bytes) -> None:
        """Send an answer to each queue; QueueError where one does not take it. Send it again then."""
        for error in (await self.send_all([body])).values():
            raise error

    async def send_all(self, bodies: Sequence[bytes]) -> dict[int, QueueError]:
        """Send the answers to each queue; return, by position, why a queue did not take some of them."""
        if not bodies:
            return {}
        errors = await asyncio.gather(*(_send(queue, bodies) for queue in self._queues))
        return {position: error for found in errors for position, error in found.items()}


async def _send(queue: Sender, bodies: Sequence[bytes]) -> dict[int, QueueError]:
    try:
        await queue.send(bodies)
    except PartialError as error:
        return dict.fromkeys([*error.left, *error.refused], error)
    except QueueError as error:
        return dict.fromkeys(range(len(bodies)), error)
    return {}


def answer_body(answer: RecognizedFaces, error: type[FacewireError] = RecognizeError) -> bytes:
    """Return the answer as a message; an `error` with code `message_too_large` where no queue takes it."""
    body = answer.to_bytes()
    if len(body) > MAX_MESSAGE_BYTES:
        detail = f"the answer would have {len(body):,} bytes, a queue takes {MAX_MESSAGE_BYTES:,}"
        raise error("message_too_large", detail)
    return body
