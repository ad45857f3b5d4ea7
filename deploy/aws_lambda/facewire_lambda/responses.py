"""Where answers go: every response queue gets each of them."""

import asyncio
from collections.abc import Sequence

from facewire.domain.errors import FacewireError, QueueError, RecognizeError
from facewire.domain.messages import MAX_MESSAGE_BYTES, RecognizedFaces
from facewire.domain.ports import PartialError, Sender


async def send_to_all(queues: Sequence[Sender], body: bytes) -> None:
    """Send an answer to each queue; QueueError where one does not take it. Send it again then."""
    for errors in await asyncio.gather(*(send_each(queue, [body]) for queue in queues)):
        for error in errors.values():
            raise error


async def send_each(queue: Sender, bodies: Sequence[bytes]) -> dict[int, QueueError]:
    """Send the bodies; return, by position, why the queue did not take some of them."""
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
