"""Requests go to the recognizer; one that its queue will never take is answered here."""

from collections.abc import Sequence

import structlog

from facewire.domain.errors import DetectError
from facewire.domain.failures import answer_unread
from facewire.domain.ports import PartialError, Sender

_log = structlog.get_logger(__name__)


class Requests:
    """Takes requests to their queue, and the answer `failed: message_refused` to those it refuses for good."""

    def __init__(self, requests: Sender, answers: Sender) -> None:
        self._requests = requests
        self._answers = answers

    async def send(self, bodies: Sequence[bytes]) -> None:
        """Send the requests, or their answers; QueueError, PartialError where some are to be sent again."""
        try:
            await self._requests.send(bodies)
        except PartialError as error:
            await self._answer([bodies[position] for position in error.refused], error)
            if error.left:
                raise PartialError(error.code, error.detail, left=error.left, refused=()) from error

    async def _answer(self, refused: Sequence[bytes], refusal: PartialError) -> None:
        answers = []
        for body in refused:
            detail = f"the request queue does not take a message of {len(body):,} bytes: {refusal.public}"
            answer = answer_unread(body, DetectError("message_refused", detail), "edge")
            facts = {"request_id": answer and answer.request_id, "size": len(body), "detail": refusal.detail}
            _log.error("a request was refused", **facts)
            answers += [answer.to_bytes()] if answer else []
        if answers:
            await self._answers.send(answers)
