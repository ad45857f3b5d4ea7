"""Queues in Amazon SQS, or in what stands in for it."""

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import structlog

from facewire.adapters.aws.clients import LONGEST_POLL_SECONDS
from facewire.adapters.aws.provision import DEAD_SUFFIX, LEASE_SECONDS, queue_name
from facewire.adapters.aws.sqs.batches import (
    MAX_BATCH_MESSAGES,
    complete,
    in_tens,
    message_text,
    packed,
    raise_joined,
    reason_text,
)
from facewire.adapters.aws.sqs.connection import SqsConnection
from facewire.domain.errors import QueueError
from facewire.domain.failures import error_name
from facewire.domain.ports import MAX_RECEIVES, Lease, Queue

T = TypeVar("T")
_log = structlog.get_logger()

#: A message can be hidden for at most this long (12 hours).
MAX_LEASE_SECONDS = 43_200
#: Batches of one call that are under way at a time.
_CONCURRENCY = 8
#: After messages have come a poll lasts this long, then twice as long after each that found nothing.
_SHORTEST_POLL_SECONDS = 1


@dataclass(frozen=True, slots=True)
class SqsDepth:
    """About how many messages wait, are lent, wait for their delay to end, and lie dead."""

    waiting: int
    leased: int
    delayed: int
    dead: int


class SqsQueues(SqsConnection):
    """The queues of one account, over a connection that they share: `async with SqsQueues.open(settings) as queues`."""

    def queue(self, name: str, *, lease_seconds: float = LEASE_SECONDS) -> "SqsQueue":
        """Return the queue of this name or URL; a lease ends after `lease_seconds` (whole seconds) unless extended."""
        return SqsQueue(self, name, lease_seconds=lease_seconds)


class SqsQueue(Queue):
    """A standard queue of SQS: messages come at least once, in about the order they were sent in.

    `SqsQueues` opens it. Bodies are UTF-8 text, as all our messages are; times are whole seconds, rounded up. A lease
    that ran out is passed over where SQS can tell. Where it cannot, the call may still reach the message, which does
    whoever has it now no harm: it may come twice all the same.

    SQS counts receives and never takes one back. So that messages which were only leased ahead, at one stop after the
    other, do not count as poison without an attempt, `release(count_attempt=False)` replaces one that has used up its
    receives by a copy, which starts anew; any other just becomes visible. Prefetch little all the same: a process that
    is killed gives nothing back, and each kill counts for everything it had leased.
    """

    def __init__(self, connection: SqsConnection, name: str, *, lease_seconds: float) -> None:
        self.name = queue_name(name)
        self._connection = connection
        self._address = name
        self._lease_seconds = _whole(lease_seconds)
        self._poll_seconds = _SHORTEST_POLL_SECONDS
        self._slots = asyncio.Semaphore(_CONCURRENCY)

    def dead_letters(self) -> "SqsQueue":
        """Return the queue of the dead letters; in it messages are lent without limit until acknowledged."""
        return SqsQueue(self._connection, self._address + DEAD_SUFFIX, lease_seconds=self._lease_seconds)

    async def send(self, bodies: Sequence[bytes]) -> None:
        """Send `bodies` in batches; QueueError `too_large` or `not_text` before any of them leaves.

        PartialError where SQS did not take them all.
        """
        texts = [message_text(body) for body in bodies]
        await self._each(packed(texts), self._send)

    async def receive(self, limit: int, *, wait: float) -> list[Lease]:
        """Return up to `limit` messages, ten at most, waiting up to `wait` seconds for the first.

        A poll that SQS holds cannot be taken back: it would go on lending messages to a caller who has gone. So a
        cancelled receive leaves its poll to end by itself, and what it brings is handed back.
        """
        given_up = asyncio.Event()
        poll = asyncio.create_task(self._poll(limit, wait, given_up), name=f"poll {self.name}")
        try:
            return await asyncio.shield(poll)
        except asyncio.CancelledError:
            given_up.set()
            self._connection.in_background(asyncio.create_task(self._hand_back(poll), name=f"hand back {self.name}"))
            raise

    async def extend(self, leases: Sequence[Lease], seconds: float) -> None:
        """Make the leases end `seconds` from now. A lease that has already ended is passed over."""
        await self._hide(leases, seconds)

    async def acknowledge(self, leases: Sequence[Lease]) -> None:
        """Delete the messages. A lease that has already ended is passed over."""
        await self._each(in_tens(leases), self._delete)

    async def release(self, leases: Sequence[Lease], *, delay: float = 0, count_attempt: bool = True) -> None:
        """Let others receive the messages again, `delay` seconds from now.

        SQS counts every receive, also without `count_attempt`. Only a message that has no receive left before
        it counts as poison is replaced by a copy, at the end of the queue and at once, and starts to count anew.
        """
        worn = [lease for lease in leases if not count_attempt and lease.receives >= MAX_RECEIVES]
        await self._hide([lease for lease in leases if lease not in worn], delay)
        await self.send([lease.body for lease in worn])
        await self.acknowledge(worn)

    async def dead_letter(self, lease: Lease, reason: str) -> None:
        """Send the message to the dead letters, with the reason as an attribute, then delete it."""
        if await self._hide([lease], LEASE_SECONDS):
            return
        attributes: dict[str, Any] = {"reason": {"DataType": "String", "StringValue": reason_text(reason)}}
        entry = {"MessageBody": lease.body.decode(), "MessageAttributes": attributes}
        await self.dead_letters()._send_entries([entry])  # noqa: SLF001 - another queue of ours
        await self.acknowledge([lease])

    async def depth(self) -> SqsDepth:
        """Return about how much the queue holds."""
        waiting, leased, delayed = await self._counts()
        if self.name.endswith(DEAD_SUFFIX):
            return SqsDepth(waiting, leased, delayed, 0)
        return SqsDepth(waiting, leased, delayed, sum(await self.dead_letters()._counts()))  # noqa: SLF001

    async def _counts(self) -> tuple[int, int, int]:
        async def ask(url: str) -> tuple[int, int, int]:
            answer = await self._connection.calls.get_queue_attributes(
                QueueUrl=url,
                AttributeNames=[
                    "ApproximateNumberOfMessages",
                    "ApproximateNumberOfMessagesNotVisible",
                    "ApproximateNumberOfMessagesDelayed",
                ],
            )
            held = answer["Attributes"]
            return (
                int(held["ApproximateNumberOfMessages"]),
                int(held["ApproximateNumberOfMessagesNotVisible"]),
                int(held["ApproximateNumberOfMessagesDelayed"]),
            )

        return await self._connection.call(self._address, ask)

    async def _send(self, texts: Sequence[str]) -> None:
        await self._send_entries([{"MessageBody": text} for text in texts])

    async def _send_entries(self, entries: Sequence[dict[str, Any]]) -> None:
        client = self._connection.calls
        await complete(
            entries,
            lambda left: self._connection.call(
                self._address, lambda url: client.send_message_batch(QueueUrl=url, Entries=left)
            ),
        )

    async def _delete(self, leases: Sequence[Lease]) -> None:
        client = self._connection.calls
        await complete(
            [{"ReceiptHandle": lease.receipt} for lease in leases],
            lambda left: self._connection.call(
                self._address, lambda url: client.delete_message_batch(QueueUrl=url, Entries=left)
            ),
            leases=True,
        )

    async def _hide(self, leases: Sequence[Lease], seconds: float) -> int:
        """Make the messages visible `seconds` from now; return how many leases had ended."""
        client = self._connection.calls
        timeout = _whole(seconds)
        ended = 0

        async def hide(batch: Sequence[Lease]) -> None:
            nonlocal ended
            passed_over = await complete(
                [{"ReceiptHandle": lease.receipt, "VisibilityTimeout": timeout} for lease in batch],
                lambda left: self._connection.call(
                    self._address, lambda url: client.change_message_visibility_batch(QueueUrl=url, Entries=left)
                ),
                leases=True,
            )
            ended += passed_over

        await self._each(in_tens(leases), hide)
        return ended

    async def _each(self, batches: Sequence[Sequence[T]], run: Callable[[Sequence[T]], Awaitable[None]]) -> None:
        """Run all batches, a few at a time; then raise what went wrong, if anything."""
        if len(batches) == 1:
            await run(batches[0])
            return

        async def bounded(batch: Sequence[T]) -> None:
            async with self._slots:
                await run(batch)

        raise_joined(batches, await asyncio.gather(*(bounded(batch) for batch in batches), return_exceptions=True))

    async def _poll(self, limit: int, wait: float, given_up: asyncio.Event) -> list[Lease]:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait
        seconds = min(math.ceil(wait), self._poll_seconds)
        while True:
            leases = await self._receive(min(limit, MAX_BATCH_MESSAGES), seconds)
            longer = min(2 * self._poll_seconds, LONGEST_POLL_SECONDS)
            self._poll_seconds = _SHORTEST_POLL_SECONDS if leases else longer
            # What rounding and the network leave of a second is not worth another call.
            seconds = min(round(deadline - loop.time()), self._poll_seconds)
            if leases or given_up.is_set() or seconds <= 0:
                return leases

    async def _receive(self, limit: int, seconds: int) -> list[Lease]:
        client = self._connection.polls
        answer = await self._connection.call(
            self._address,
            lambda url: client.receive_message(
                QueueUrl=url,
                MaxNumberOfMessages=limit,
                WaitTimeSeconds=seconds,
                VisibilityTimeout=self._lease_seconds,
                MessageSystemAttributeNames=["ApproximateReceiveCount"],
            ),
        )
        return [
            Lease(
                message["ReceiptHandle"],
                message["Body"].encode(),
                int(message["Attributes"]["ApproximateReceiveCount"]),
            )
            for message in answer.get("Messages", [])
        ]

    async def _hand_back(self, poll: "asyncio.Task[list[Lease]]") -> None:
        try:
            if leases := await poll:
                await self.release(leases, count_attempt=False)
        except QueueError as error:
            _log.warning("messages come back when their leases end", queue=self.name, error=error_name(error))


def _whole(seconds: float) -> int:
    return min(math.ceil(seconds), MAX_LEASE_SECONDS)
