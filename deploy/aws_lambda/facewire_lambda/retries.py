"""What becomes of a message that failed: it comes again after a pause, and at its fifth receive is a dead letter."""

import asyncio

import structlog

from facewire.errors import FacewireError, QueueError, RecognizeError
from facewire.failures import answer_unread, error_name, error_origin
from facewire.messages import DetectedFaces, RecognizedFaces, failed
from facewire.queues import MAX_RECEIVES, Queue
from facewire.waiting import jittered
from facewire.worker import RETRY_SECONDS
from facewire_lambda.batch import Record
from facewire_lambda.emf import Metrics
from facewire_lambda.responses import answer_body

_log = structlog.get_logger(__name__)


class Retries:
    """Looks after the failed messages of a queue, `dead` being its dead letters."""

    def __init__(self, queue: Queue, dead: Queue, metrics: Metrics) -> None:
        self._queue = queue
        self._dead = dead
        self._metrics = metrics

    async def settles(self, record: Record, error: Exception) -> bool:
        """Return whether the message is done with: its `failed` answer is the dead letter then.

        Otherwise it has been given a pause before it comes again. One that names no request, and with a queue that is
        out of reach any, is left to the time that the queue hides messages for, and to its redrive policy.
        """
        lease = record.lease
        facts = {"receives": lease.receives, "error": error_name(error), "at": error_origin(error)}
        _log.warning("a message failed", message_id=record.message_id, **facts)
        try:
            if lease.receives >= MAX_RECEIVES:
                return await self._bury(lease.body, error)
            delay = jittered(RETRY_SECONDS[min(lease.receives, len(RETRY_SECONDS)) - 1])
            await self._queue.give_back([lease], delay=delay)
        except QueueError as queue_error:
            _log.warning("it comes again when its lease ends", error=error_name(queue_error))
        self._metrics.count("Retried")
        return False

    async def _bury(self, body: bytes, error: Exception) -> bool:
        final = error
        if not isinstance(final, FacewireError):
            final = RecognizeError("internal", f"{MAX_RECEIVES} attempts failed, the last with {error_name(error)}")
        answer = await asyncio.to_thread(failed_answer, body, final)
        if answer is None:
            return False
        await self._dead.send([answer.to_bytes()])
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
