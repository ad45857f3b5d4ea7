"""From the dead letters into the store: what crashed a worker again and again ends as `failed`, and leaves the disk."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import structlog

from facewire.domain.errors import FacewireError, StoreError
from facewire.domain.failures import answer_given_up
from facewire.domain.messages import RecognizedFaces
from facewire.domain.ports import Queue, ResultStore
from facewire.work.consumer import Policy, consume
from facewire.work.handler import Done, Handler, Message, Outcome, Outgoing
from facewire.work.retry import RetryStrategy
from facewire_gateway import metrics
from facewire_gateway.delivery.drain import ANSWERS, settle
from facewire_gateway.delivery.notifier import Notifier

_log = structlog.get_logger(__name__)


#: A dead letter is settled however often that takes, and goes nowhere else.
DEAD_LETTERS = replace(ANSWERS, dead_letter=False, retry=RetryStrategy(delays=(15.0,), max_receives=None))


async def drain_dead_letters(
    dead: Queue, results: ResultStore, notifier: Notifier, stop: asyncio.Event, *, policy: Policy = DEAD_LETTERS
) -> None:
    """Answer each request in `dead` with `failed`, unless it has a better answer, and delete the message.

    A message that is an answer itself, one that could not be kept in time, is kept as it stands. Messages of any stage
    are taken; one that names no request is deleted and logged. Runs until `stop` is set and the queue is empty.
    """
    await consume(dead, _DeadLetters(results, notifier), policy, stop)


class _DeadLetters(Handler[RecognizedFaces | None]):
    name: ClassVar[str] = "dead letters"
    error: ClassVar[type[FacewireError]] = StoreError

    def __init__(self, results: ResultStore, notifier: Notifier) -> None:
        self._results = results
        self._notifier = notifier

    def read(self, body: bytes) -> RecognizedFaces | None:
        return answer_given_up(body, "cloud")

    async def handle(self, messages: Sequence[Message[RecognizedFaces | None]]) -> Sequence[Outcome]:
        read = await asyncio.to_thread(lambda: [message.content for message in messages])
        answers = [answer for answer in read if answer is not None]
        kept = await settle(answers, self._results, self._notifier)
        metrics.DEAD_LETTERS.inc(len(messages))
        request_ids = [answer.request_id for answer in answers]
        _log.error("messages were given up", count=len(messages), answered=kept, request_ids=request_ids)
        return [Done() for _ in messages]

    def failure(self, message: Message[RecognizedFaces | None], error: FacewireError) -> Sequence[Outgoing]:  # noqa: ARG002
        return ()
