"""Answers on their way from a queue of this machine to the response queue."""

import asyncio
from collections.abc import Callable, Sequence
from typing import ClassVar

import structlog

from facewire.domain.errors import FacewireError, QueueError
from facewire.domain.failures import answer_given_up
from facewire.domain.messages import Source
from facewire.domain.ports import Queue, Sender
from facewire.work.consumer import Policy, consume
from facewire.work.handler import Done, Handler, Message, Outcome, Outgoing
from facewire.work.retry import RetryStrategy

#: An outage counts against no answer; what `responses` refuses for good is deleted, as nothing else could become of it.
FORWARDING = Policy(
    batch_size=10,
    prefetch=10,
    drain_seconds=2.0,
    until_empty=True,
    hold=True,
    dead_letter=False,
    retry=RetryStrategy(max_receives=None),
)

_log = structlog.get_logger(__name__)


async def forward_answers(
    answers: Queue, responses: Sender, stop: asyncio.Event, *, policy: Policy = FORWARDING
) -> None:
    """Send what comes over `answers` to `responses`, and only then delete it, until `stop` is set and it is empty.

    While `responses` is out of reach it is tried again; what is left at the stop stays in `answers`. An answer that
    `responses` refuses for good is deleted and logged.
    """
    await consume(answers, _Forward(responses, lambda body: body), policy, stop)


async def forward_dead_letters(
    dead: Queue, responses: Sender, stop: asyncio.Event, *, source: Source, policy: Policy = FORWARDING
) -> None:
    """Do the same for dead letters: answers go as they are, to all others goes `failed: dead_letter`.

    One that names no request is deleted and logged.
    """

    def answer_in(body: bytes) -> bytes | None:
        answer = answer_given_up(body, source)
        _log.error("a message was given up", request_id=None if answer is None else answer.request_id)
        return None if answer is None else answer.to_bytes()

    await consume(dead, _Forward(responses, answer_in), policy, stop)


class _Forward(Handler[bytes | None]):
    name: ClassVar[str] = "forward"
    error: ClassVar[type[FacewireError]] = QueueError

    def __init__(self, responses: Sender, answer_in: Callable[[bytes], bytes | None]) -> None:
        self._responses = responses
        self._answer_in = answer_in

    def read(self, body: bytes) -> bytes | None:
        return self._answer_in(body)

    async def handle(self, messages: Sequence[Message[bytes | None]]) -> Sequence[Outcome]:
        bodies = await asyncio.to_thread(lambda: [message.content for message in messages])
        return [Done([] if body is None else [Outgoing(self._responses, body)]) for body in bodies]

    def failure(self, message: Message[bytes | None], error: FacewireError) -> Sequence[Outgoing]:  # noqa: ARG002
        return ()
