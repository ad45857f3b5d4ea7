"""`dead_letters`: requests that were given up are recorded and answered as `failed`.

Most dead letters are such answers already; the others are messages that ended the function that read them.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import structlog

from facewire.adapters.aws.sqs.queue import SqsQueues
from facewire.domain.errors import FacewireError, RecognizeError
from facewire.domain.failures import answer_given_up, error_name, error_origin
from facewire.domain.messages import RecognizedFaces
from facewire.domain.ports import ResultStore
from facewire_lambda.batch import Record, batch_result
from facewire_lambda.emf import Metrics
from facewire_lambda.responses import Responses, answer_body
from facewire_lambda.runtime import Event, Function, Handler
from facewire_lambda.settings import LambdaSettings
from facewire_lambda.stores import open_results

_log = structlog.get_logger(__name__)


class DeadLetters:
    """Sends the answer, then records it, unless the request has one; what cannot be answered is logged and deleted."""

    def __init__(self, results: ResultStore, *, responses: Responses, metrics: Metrics) -> None:
        self._results = results
        self._responses = responses
        self._metrics = metrics

    async def __call__(self, event: Event) -> dict[str, Any]:
        """Return the messages to come again, as queue or store were out of reach."""
        records = Record.all_of(event)
        settled = await asyncio.gather(*map(self._settles, records))
        return batch_result([record for record, done in zip(records, settled, strict=True) if not done])

    async def _settles(self, record: Record) -> bool:
        self._metrics.count("DeadLetters")
        answer = await asyncio.to_thread(_answer_to, record)
        if answer is None:
            return True
        try:
            await self._answer(answer)
        except Exception as error:  # noqa: BLE001 - of this letter alone: its neighbours are not to come again for it
            self._metrics.count("Retried")
            facts = {"error": error_name(error), "at": error_origin(error)}
            detail = error.detail if isinstance(error, FacewireError) else None
            _log.warning("a dead letter comes again", request_id=answer.request_id, detail=detail, **facts)
            return False
        return True

    async def _answer(self, answer: RecognizedFaces) -> None:
        if not await self._has_answer(answer):
            await self._responses.send(answer.to_bytes())
            await self._results.keep([answer])
        error = answer.error
        facts = {"stage": error.stage, "code": error.code} if error else {}
        _log.error("a request was given up", request_id=answer.request_id, **facts)

    async def _has_answer(self, answer: RecognizedFaces) -> bool:
        """Return whether the request, and not a later one of that id, has an answer: the letter came twice."""
        known = await self._results.get(answer.request_id)
        if known is None or known.status == "pending":
            return False
        return not answer.content_sha256 or known.content_sha256 == answer.content_sha256


def _answer_to(record: Record) -> RecognizedFaces | None:
    """Return the answer to a dead letter; None where it names no request, or the answer is too large for a queue."""
    answer = answer_given_up(record.lease.body, "cloud")
    reason = "it names no request"
    try:
        if answer is not None and answer_body(answer):
            return answer
    except RecognizeError as error:
        reason = error.detail
    facts = {"message_id": record.message_id, "size": len(record.lease.body)}
    _log.error("a dead letter cannot be answered", reason=reason, **facts)
    return None


@Handler
@asynccontextmanager
async def dead_letters(settings: LambdaSettings, metrics: Metrics) -> AsyncIterator[Function]:
    """Open `dead_letters`: the results and the response queues."""
    async with open_results(settings) as results, SqsQueues.open(settings) as queues:
        responses = Responses([queues.queue(name) for name in settings.response_queues])
        yield DeadLetters(results, responses=responses, metrics=metrics)
