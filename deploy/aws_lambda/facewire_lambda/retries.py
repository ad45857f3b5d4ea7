"""What becomes of a message that failed: it comes again after a pause, and at its fifth receive is given up."""

import asyncio
from collections.abc import Sequence

import structlog

from facewire.domain.errors import FacewireError, QueueError, RecognizeError, needs_operator
from facewire.domain.failures import answer_unread, error_name, error_origin, last_error
from facewire.domain.messages import DetectedFaces, RecognizedFaces, failed
from facewire.domain.queue_ports import MAX_RECEIVES, Queue, Sender
from facewire.work.retry import RetryStrategy
from facewire_lambda.batch import Record
from facewire_lambda.emf import Metrics
from facewire_lambda.responses import Responses, answer_body

_log = structlog.get_logger(__name__)


class Retries:
    """Looks after the failed messages of a queue, `dead` being its dead letters."""

    def __init__(self, queue: Queue, dead: Sender, *, responses: Responses, metrics: Metrics) -> None:
        self._queue = queue
        self._dead = dead
        self._responses = responses
        self._metrics = metrics

    async def settles(self, record: Record, error: Exception) -> bool:
        """Return whether the message is done with: it was given up, and its `failed` answer left for whoever asked.

        Otherwise it has been given a pause before it comes again. One that names no request, and with a queue that is
        out of reach any, is left to the time that the queue hides messages for, and to its redrive policy.
        """
        lease = record.lease
        answer = await asyncio.to_thread(failed_answer, lease.body, last_error(error, RecognizeError))
        facts = {"receives": lease.receives, "error": error_name(error), "at": error_origin(error)}
        request_id = answer.request_id if answer else None
        _log.warning("a message failed", request_id=request_id, message_id=record.message_id, **facts)
        try:
            if lease.receives >= MAX_RECEIVES:
                return answer is not None and await self._give_up(answer)
            delay = RetryStrategy().delay(lease.receives)
            await self._queue.give_back([lease], delay=delay)
        except QueueError as queue_error:
            _log.warning("it comes again when its lease ends", error=error_name(queue_error))
        self._metrics.count("Retried")
        return False

    async def forget(self, records: Sequence[Record]) -> None:
        """Delete messages that are done with, before the function's result has SQS do it."""
        try:
            await self._queue.acknowledge([record.lease for record in records])
        except QueueError as error:
            _log.warning("messages are not deleted yet", messages=len(records), error=error_name(error))

    async def _give_up(self, answer: RecognizedFaces) -> bool:
        """Leave the answer to whoever reads the dead letters or, as earlier deployments have none, send it."""
        body = answer.to_bytes()
        try:
            await self._dead.send([body])
        except QueueError as error:
            if not needs_operator(error):
                raise
            _log.warning("there are no dead letters, so the answer is sent at once", request_id=answer.request_id)
            await self._responses.send(body)
        self._metrics.count("GivenUp")
        return True


def failed_answer(body: bytes, error: FacewireError) -> RecognizedFaces | None:
    """Return the answer that says why the message failed; None where it names no request or is swollen."""
    try:
        answer: RecognizedFaces | None = failed(DetectedFaces.from_bytes(body), error, source="cloud")
    except RecognizeError:
        answer = answer_unread(body, error, "cloud")
    try:
        return answer if answer and answer_body(answer) else None
    except RecognizeError:
        return None
