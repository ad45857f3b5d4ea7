"""From the response queue into the store, and on to everybody who wants to know."""

import asyncio
from collections.abc import Sequence
from typing import ClassVar

from facewire.domain.errors import FacewireError, RecognizeError, StoreError
from facewire.domain.lifecycle import Answered, RequestState, is_conflict
from facewire.domain.messages import RecognizedFaces
from facewire.domain.ports import Queue, ResultStore
from facewire.work.consumer import Policy, consume
from facewire.work.handler import Done, Handler, Message, Outcome, Outgoing
from facewire.work.retry import RetryStrategy
from facewire_gateway import metrics
from facewire_gateway.delivery.notifier import Notifier

#: A batch waits for a store that is out of reach, so that an outage does not use up the receives after which a message
#: is dead-lettered. SQS hands out 10 messages at once and waits 20 s at the most; each receive there is paid for.
ANSWERS = Policy(
    batch_size=10,
    prefetch=0,
    receive_seconds=20.0,
    drain_seconds=None,
    until_empty=True,
    hold=True,
    retry=RetryStrategy(delays=(15.0,)),
)


async def settle(answers: Sequence[RecognizedFaces], results: ResultStore, notifier: Notifier) -> int:
    """Keep `answers`, tell `notifier` of those that were better than what was there, return their number.

    An id conflict is told to the camera and kept only where the request that it refuses is the pending one; else the
    request of that id has its own answer. StoreError where the store is out of reach; nobody has been told anything
    then, and what was kept all the same is told when it is settled again.
    """
    conflicts = [answer for answer in answers if is_conflict(answer) and not await _is_to_keep(answer, results)]
    kept = await results.keep([answer for answer in answers if answer not in conflicts])
    metrics.ANSWERS.labels("conflict").inc(len(conflicts))
    metrics.ANSWERS.labels("kept").inc(len(kept))
    metrics.ANSWERS.labels("known_already").inc(len(answers) - len(conflicts) - len(kept))
    new = {(answer.request_id, answer.answered_at) for answer in kept}
    unkept = [answer for answer in answers if (answer.request_id, answer.answered_at) not in new]
    kept_before, others = await _to_tell_again(unkept, results)
    await notifier.tell([*kept, *kept_before], others)
    return len(kept)


async def _to_tell_again(
    unkept: Sequence[RecognizedFaces], results: ResultStore
) -> tuple[list[RecognizedFaces], list[RecognizedFaces]]:
    """Return the answers that are kept already, and those to other messages than the known request.

    An answer comes again where a gateway was killed after keeping it: perhaps it has told nobody.
    """
    kept_before, others = [], []
    for answer in unkept:
        transition = RequestState(await results.get(answer.request_id)).on(Answered(answer))
        if transition.told is None:
            continue
        if transition.outcome == "kept_before":
            kept_before.append(transition.told)
        elif transition.outcome in {"repeat", "other_message"}:
            others.append(transition.told)
    return kept_before, others


async def _is_to_keep(answer: RecognizedFaces, results: ResultStore) -> bool:
    known = await results.get(answer.request_id)
    return RequestState(known).on(Answered(answer)).outcome == "kept"


async def drain_responses(
    responses: Queue, results: ResultStore, notifier: Notifier, stop: asyncio.Event, *, policy: Policy = ANSWERS
) -> None:
    """Settle what comes over `responses`, and only then acknowledge it, until `stop` is set and the queue is empty.

    What cannot be read is dead-lettered.
    """
    await consume(responses, Answers(results, notifier), policy, stop)


class Answers(Handler[RecognizedFaces]):
    """Settles answers, a batch at a time."""

    name: ClassVar[str] = "answers"
    error: ClassVar[type[FacewireError]] = StoreError

    def __init__(self, results: ResultStore, notifier: Notifier) -> None:
        self._results = results
        self._notifier = notifier

    def read(self, body: bytes) -> RecognizedFaces:
        """Return the answer in `body`; RecognizeError where there is none."""
        return RecognizedFaces.from_bytes(body)

    async def handle(self, messages: Sequence[Message[RecognizedFaces]]) -> Sequence[Outcome]:
        """Keep the answers and tell of them."""
        read = [_content(message) for message in messages]
        answers = [answer for answer in read if isinstance(answer, RecognizedFaces)]
        await settle(answers, self._results, self._notifier)
        metrics.ANSWERS.labels("unreadable").inc(len(read) - len(answers))
        return [Done() if isinstance(answer, RecognizedFaces) else answer for answer in read]

    def failure(self, message: Message[RecognizedFaces], error: FacewireError) -> Sequence[Outgoing]:  # noqa: ARG002
        """Return nothing: an answer has no answer."""
        return ()


def _content(message: Message[RecognizedFaces]) -> RecognizedFaces | RecognizeError:
    try:
        return message.content
    except RecognizeError as error:
        return error
