"""When a failed message is tried again, and when it is given up: a value that is handed to a consumer.

What the sender is at fault for is answered `failed` at once. An outage of a queue or store counts against no message.
Anything else is tried again after growing delays, and is dead-lettered at its last receive.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import structlog

from facewire.domain.errors import FacewireError, QueueError, is_final, is_outage
from facewire.domain.failures import error_name, last_error
from facewire.domain.messages import MAX_MESSAGE_BYTES
from facewire.domain.ports import MAX_RECEIVES, Lease
from facewire.runtime.backoff import jittered
from facewire.work.handler import DeadLetter, Done, Handler, Message, Outcome, Outgoing, RetryAfter, Verdict

M = TypeVar("M")

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class RetryStrategy:
    """`delays` are the seconds until a message is received again after its first, second ... failed attempt.

    Each is up to a quarter longer or shorter. After `max_receives` a message is dead-lettered; None: never. An outage
    counts as an attempt only with `count_outages`: for a queue that counts receives by itself.
    """

    delays: Sequence[float] = (1.0, 4.0, 16.0, 60.0)
    max_receives: int | None = MAX_RECEIVES
    count_outages: bool = False

    def delay(self, receives: int) -> float:
        """Return the seconds after the attempt of that number, from 1 on."""
        return jittered(self.delays[min(receives, len(self.delays)) - 1])

    def is_last(self, receives: int) -> bool:
        """Return whether no attempt follows on the receive of that number."""
        return self.max_receives is not None and receives >= self.max_receives

    def is_poison(self, lease: Lease) -> bool:
        """Return whether the message has ended every attempt allowed, and its process with it."""
        return self.max_receives is not None and lease.receives > self.max_receives


async def attempt(handler: Handler[M], messages: Sequence[Message[M]], retry: RetryStrategy) -> list[Outcome]:
    """Handle the messages together; if that fails, each alone, so that one cannot fail its neighbours."""
    poison = [message for message in messages if retry.is_poison(message.lease)]
    if len(messages) == 1 and poison:
        return [handler.error("gave_up", f"none of {retry.max_receives} attempts came to an end")]
    try:
        if not poison:
            return list(await handler.handle(messages))
    except Exception as error:  # noqa: BLE001 - whatever a message's content may cause; judged, logged and counted
        if len(messages) == 1 or is_outage(error):
            return [error] * len(messages)
        _log.warning("a batch failed, trying each message alone", messages=len(messages), error=error_name(error))
    return [outcome for message in messages for outcome in await attempt(handler, [message], retry)]


async def judge(handler: Handler[M], message: Message[M], outcome: Outcome, retry: RetryStrategy) -> Verdict:
    """Return what becomes of the message; a message that no queue takes is a failure as well."""
    if not isinstance(outcome, Exception):
        if (size := _largest(outcome)) <= MAX_MESSAGE_BYTES:
            return outcome
        detail = f"the next message would have {size:,} bytes, a queue takes {MAX_MESSAGE_BYTES:,}"
        return await _fail(handler, message, handler.error("message_too_large", detail))
    receives = message.lease.receives
    if is_outage(outcome) and not retry.count_outages:
        return RetryAfter(retry.delay(receives), count_attempt=False)
    if retry.is_last(receives):
        error = last_error(outcome, handler.error)
        return await _fail(handler, message, error, f"{receives} receives, then {error_name(outcome)}")
    if is_final(outcome):
        return await _fail(handler, message, outcome)
    return RetryAfter(retry.delay(receives))


async def judge_refused(handler: Handler[M], message: Message[M], refusal: QueueError) -> Done | DeadLetter:
    """Return what becomes of a message whose successor a queue will never take."""
    error = handler.error("message_refused", f"a queue does not take the next message: {refusal.public}")
    return await _fail(handler, message, error, f"what follows from it was refused: {refusal.detail}")


async def _fail(
    handler: Handler[M], message: Message[M], error: FacewireError, dead_letter: str | None = None
) -> Done | DeadLetter:
    """Answer `failed`; a message that cannot be answered, as it names no request or is swollen, is dead-lettered."""
    told = Done(await asyncio.to_thread(handler.failure, message, error))
    if not told.outgoing or _largest(told) > MAX_MESSAGE_BYTES:
        return DeadLetter(dead_letter or f"it cannot be answered: {error_name(error)}")
    return told if dead_letter is None else DeadLetter(dead_letter, told.outgoing)


def _largest(verdict: Verdict) -> int:
    sent: Sequence[Outgoing] = () if isinstance(verdict, RetryAfter) else verdict.outgoing
    return max((len(message.body) for message in sent), default=0)
