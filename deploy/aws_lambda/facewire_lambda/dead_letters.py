"""`dead_letters`: requests that were given up are recorded and answered as `failed`.

Most dead letters are such answers already; the others are messages that ended the function that read them.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import structlog

from facewire.adapters.aws.sqs.queue import SqsQueues
from facewire.domain.errors import FacewireError, RecognizeError, StoreError
from facewire.domain.failures import answer_given_up
from facewire.domain.lifecycle import GivenUp, RequestState
from facewire.domain.messages import RecognizedFaces
from facewire.domain.ports import ResultStore, Sender
from facewire.work.handler import Done, Handler, Message, Outcome, Outgoing
from facewire.work.retry import RetryStrategy
from facewire_lambda.batch import Batches, Record, answer_body, batch_result, send_to_all
from facewire_lambda.emf import Metrics
from facewire_lambda.runtime import Event, Function
from facewire_lambda.runtime import Handler as LambdaHandler
from facewire_lambda.settings import LambdaSettings
from facewire_lambda.stores import open_results

#: A dead letter comes again, when its lease ends, for as long as its queue keeps it.
FOREVER = RetryStrategy(max_receives=None)

_log = structlog.get_logger(__name__)


class DeadLetters(Handler[RecognizedFaces | None]):
    """Sends the answer, then records it, unless the request has one; what cannot be answered is logged and deleted."""

    name: ClassVar[str] = "dead letters"
    error: ClassVar[type[FacewireError]] = StoreError

    def __init__(self, results: ResultStore, *, responses: Sequence[Sender], metrics: Metrics) -> None:
        self._results = results
        self._responses = responses
        self._metrics = metrics

    async def __call__(self, event: Event) -> dict[str, Any]:
        """Return the messages to come again, as queue or store were out of reach."""
        records = Record.all_of(event)
        self._metrics.count("DeadLetters", len(records))
        batches = Batches(None, None, self._metrics, FOREVER)
        return batch_result(await batches.work(self, records))

    def read(self, body: bytes) -> RecognizedFaces | None:
        """Return the answer to a dead letter; None where it names no request, or no queue takes the answer."""
        return _answer_to(body)

    async def handle(self, messages: Sequence[Message[RecognizedFaces | None]]) -> Sequence[Outcome]:
        """Answer each; one that fails does so alone: its neighbours are not to come again for it."""
        await asyncio.to_thread(lambda: [message.content for message in messages])
        found = await asyncio.gather(*(self._answer(message.content) for message in messages), return_exceptions=True)
        return [_outcome(result) for result in found]

    def failure(self, message: Message[RecognizedFaces | None], error: FacewireError) -> Sequence[Outgoing]:  # noqa: ARG002
        """Return nothing: the answer is what the message holds."""
        return ()

    async def _answer(self, answer: RecognizedFaces | None) -> None:
        if answer is None:
            return
        known = await self._results.get(answer.request_id)
        if RequestState(known).on(GivenUp(answer)).outcome == "lost":
            await send_to_all(self._responses, answer.to_bytes())
            await self._results.keep([answer])
        error = answer.error
        facts = {"stage": error.stage, "code": error.code} if error else {}
        _log.error("a request was given up", request_id=answer.request_id, **facts)


def _outcome(result: BaseException | None) -> Outcome:
    if result is None:
        return Done()
    if isinstance(result, Exception):
        return result
    raise result


def _answer_to(body: bytes) -> RecognizedFaces | None:
    answer = answer_given_up(body, "cloud")
    reason = "it names no request"
    try:
        if answer is not None and answer_body(answer):
            return answer
    except RecognizeError as error:
        reason = error.detail
    _log.error("a dead letter cannot be answered", reason=reason, size=len(body))
    return None


@LambdaHandler
@asynccontextmanager
async def dead_letters(settings: LambdaSettings, metrics: Metrics) -> AsyncIterator[Function]:
    """Open `dead_letters`: the results and the response queues."""
    async with open_results(settings) as results, SqsQueues.open(settings) as queues:
        responses = [queues.queue(name) for name in settings.response_queues]
        yield DeadLetters(results, responses=responses, metrics=metrics)
