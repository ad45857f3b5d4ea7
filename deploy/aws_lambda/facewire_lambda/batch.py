"""How functions read a queue: the verdicts on an event's messages become `batchItemFailures`.

SQS deletes what a result does not name. What comes again is given a pause; at its last receive what tells of a failure
goes to the dead letters in the message's place. A message that ends the function itself gets there by the queue's own
redrive policy.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import structlog

from facewire.domain.errors import FacewireError, QueueError, RecognizeError, needs_operator
from facewire.domain.failures import error_name, error_origin
from facewire.domain.messages import MAX_MESSAGE_BYTES, RecognizedFaces
from facewire.domain.ports import Lease, PartialError, Queue, Sender
from facewire.work.handler import (
    DeadLetter,
    Done,
    Handler,
    Message,
    Outcome,
    Outgoing,
    RetryAfter,
    Verdict,
    request_id_of,
)
from facewire.work.retry import RetryStrategy, attempt, judge
from facewire_lambda.emf import Metrics
from facewire_lambda.runtime import Event

M = TypeVar("M")

#: SQS counts a receive whatever came of it.
RETRY = RetryStrategy(count_outages=True)

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Record:
    """A message of an SQS event, by the id that the result names it by where it failed."""

    message_id: str
    lease: Lease

    @classmethod
    def all_of(cls, event: Event) -> list[Self]:
        """Return the messages of the event."""
        return [
            cls(
                record["messageId"],
                Lease(
                    record["receiptHandle"],
                    record["body"].encode(),
                    int(record["attributes"]["ApproximateReceiveCount"]),
                ),
            )
            for record in event["Records"]
        ]


def batch_result(failed: Iterable[Record]) -> dict[str, Any]:
    """Return a result that keeps the `failed` messages on the queue; SQS deletes the others."""
    return {"batchItemFailures": [{"itemIdentifier": record.message_id} for record in failed]}


@dataclass(frozen=True, slots=True)
class Batches:
    """Works on the messages of a queue, `dead` being its dead letters.

    Without `queue` a message that comes again does so when its lease ends.
    """

    queue: Queue | None
    dead: Sender | None
    metrics: Metrics
    retry: RetryStrategy = RETRY

    async def work(self, handler: Handler[M], records: Sequence[Record]) -> list[Record]:
        """Work on the messages together; return those that come again."""
        messages = [Message(record.lease, handler.read) for record in records]
        outcomes = await attempt(handler, messages, self.retry)
        verdicts = [await judge(handler, *pair, self.retry) for pair in zip(messages, outcomes, strict=True)]
        refused = await _send([verdict.outgoing if isinstance(verdict, Done) else () for verdict in verdicts])
        for place, refusal in refused.items():
            outcomes[place], verdicts[place] = refusal, await judge(handler, messages[place], refusal, self.retry)
        for record, message, outcome in zip(records, messages, outcomes, strict=True):
            _note(handler.name, record, message, outcome)
        # All at once: with a queue out of reach each takes long, and without a result those done come again as well.
        settled = await asyncio.gather(
            *(
                self._settles(record, verdict, sent=place not in refused)
                for place, (record, verdict) in enumerate(zip(records, verdicts, strict=True))
            )
        )
        return [record for record, done in zip(records, settled, strict=True) if not done]

    async def forget(self, records: Sequence[Record]) -> None:
        """Delete messages that are done with, before the function's result has SQS do it."""
        if self.queue is None:
            return
        try:
            await self.queue.acknowledge([record.lease for record in records])
        except QueueError as error:
            _log.warning("messages are not deleted yet", messages=len(records), error=error_name(error))

    async def _settles(self, record: Record, verdict: Verdict, *, sent: bool) -> bool:
        """Return whether the message is done with; else it has been given a pause before it comes again."""
        if isinstance(verdict, Done) and sent:
            return True
        try:
            if isinstance(verdict, DeadLetter) and verdict.outgoing:
                await self._dead_letter(verdict.outgoing)
                return True
            if not self.retry.is_last(record.lease.receives):
                await self._give_back(record.lease, verdict)
        except QueueError as error:
            _log.warning("it comes again when its lease ends", error=error_name(error))
        self.metrics.count("Retried")
        return False

    async def _give_back(self, lease: Lease, verdict: Verdict) -> None:
        if self.queue is not None:
            seconds = verdict.seconds if isinstance(verdict, RetryAfter) else self.retry.delay(lease.receives)
            await self.queue.release([lease], delay=seconds)

    async def _dead_letter(self, outgoing: Sequence[Outgoing]) -> None:
        """Leave the answer to what reads the dead letters or, as earlier deployments have none, send it."""
        try:
            if self.dead is not None:
                await self.dead.send([outgoing[0].body])
        except QueueError as error:
            if not needs_operator(error):
                raise
            _log.warning("there are no dead letters, so the answer is sent at once")
            for refusal in (await _send([outgoing])).values():
                raise refusal from error
        self.metrics.count("GivenUp")


def _note(stage: str, record: Record, message: Message[M], outcome: Outcome) -> None:
    if isinstance(outcome, Exception):
        facts = {"receives": record.lease.receives, "error": error_name(outcome), "at": error_origin(outcome)}
        detail = outcome.detail if isinstance(outcome, FacewireError) else None
        ids = {"request_id": request_id_of(message), "message_id": record.message_id}
        _log.warning("a message failed", stage=stage, detail=detail, **ids, **facts)


async def _send(outgoing: Sequence[Sequence[Outgoing]]) -> Mapping[int, QueueError]:
    """Send what follows from each message; return, by its place, why a queue did not take something."""
    queues = {id(sent.queue): sent.queue for follows in outgoing for sent in follows}
    bodies = [(place, sent) for place, follows in enumerate(outgoing) for sent in follows]
    refused: dict[int, QueueError] = {}
    for queue in queues.values():
        sends = [(place, sent.body) for place, sent in bodies if sent.queue is queue]
        errors = await send_each(queue, [body for _, body in sends])
        refused |= {sends[position][0]: error for position, error in errors.items()}
    return refused


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
