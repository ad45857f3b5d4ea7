"""A queue in memory: leases that end, receives that are counted, delays, dead letters."""

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count

from facewire.domain.errors import QueueError
from facewire.domain.messages import MAX_MESSAGE_BYTES
from facewire.domain.ports import MAX_RECEIVES, Lease, Queue
from facewire.runtime.backoff import wait_event


@dataclass(slots=True)
class _Message:
    """`due` is None for a message that waits, else the moment when its lease or its delay ends."""

    body: bytes
    receives: int
    due: float | None = None
    receipt: str | None = None


class MemoryQueue(Queue):
    """A queue that holds `bodies` at first. A lease ends after `lease_seconds` unless it is extended.

    Messages come oldest first, those returned before newer ones. A lease that ran out is good until the message is
    received again. A message that comes back unacknowledged from its fifth lease goes to the dead letters.

    `clock` gives the seconds by which leases and delays end. A receive waits in real time: one that waits already does
    not notice that a clock was set ahead.
    """

    def __init__(
        self, *bodies: bytes, lease_seconds: float = 30.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.lease_seconds = lease_seconds
        #: The dead letters, oldest first: the body of each, and the reason.
        self.dead: list[tuple[bytes, str]] = []
        self._clock = clock
        self._messages: list[_Message] = []
        self._leases = count(1)
        self._waiting: set[asyncio.Event] = set()
        self.put(*bodies)

    @property
    def bodies(self) -> list[bytes]:
        """What the queue holds, oldest first, leased and delayed messages included, dead letters not."""
        return [message.body for message in self._messages]

    @property
    def leased(self) -> list[bytes]:
        """What is leased at this moment, oldest first."""
        now = self._clock()
        return [
            message.body
            for message in self._messages
            if message.receipt is not None and message.due is not None and message.due > now
        ]

    @property
    def receives(self) -> list[int]:
        """How often each of `bodies` was received."""
        return [message.receives for message in self._messages]

    def put(self, *bodies: bytes, receives: int = 0) -> None:
        """Add messages that were received `receives` times before; QueueError `too_large` over 1,000,000 bytes."""
        for body in bodies:
            if len(body) > MAX_MESSAGE_BYTES:
                detail = f"the message has {len(body):,} bytes, a queue takes {MAX_MESSAGE_BYTES:,}: send it smaller"
                raise QueueError("too_large", detail)
        self._messages += [_Message(body, receives) for body in bodies]
        self._announce()

    async def send(self, bodies: Sequence[bytes]) -> None:
        """Keep each of `bodies`, all or none; QueueError `too_large` over 1,000,000 bytes."""
        self.put(*bodies)

    async def receive(self, limit: int, *, wait: float) -> list[Lease]:
        """Return up to `limit` messages, oldest first, waiting up to `wait` seconds for the first."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait
        await asyncio.sleep(0)  # others get their turn, as with a queue that is elsewhere
        while True:
            leases, due_in = self._lend(limit)
            remaining = deadline - loop.time()
            if leases or remaining <= 0:
                return leases
            await self._wait(min(remaining, due_in))

    async def extend(self, leases: Sequence[Lease], seconds: float) -> None:
        """Make the leases end `seconds` from now. A lease that has already ended is passed over."""
        for message in self._of(leases):
            message.due = self._clock() + seconds
        self._announce()

    async def acknowledge(self, leases: Sequence[Lease]) -> None:
        """Delete the messages. A lease that has already ended is passed over."""
        for message in self._of(leases):
            self._messages.remove(message)

    async def release(self, leases: Sequence[Lease], *, delay: float = 0, count_attempt: bool = True) -> None:
        """Let others receive the messages again, `delay` seconds from now.

        Without `count_attempt` the receive does not count.
        """
        for message in self._of(leases):
            message.receipt = None
            message.receives -= not count_attempt
            message.due = self._clock() + delay
        self._announce()

    async def dead_letter(self, lease: Lease, reason: str) -> None:
        """Move the message to the dead letters, with the reason. A lease that has already ended is passed over."""
        for message in self._of([lease]):
            self._bury(message, reason)

    def _lend(self, limit: int) -> tuple[list[Lease], float]:
        """Lend up to `limit` messages; return them and the seconds until another may come back."""
        now = self._clock()
        self._bring_back(now)
        free = [message for message in self._messages if message.due is None][:limit]
        due_in = min((message.due - now for message in self._messages if message.due is not None), default=math.inf)
        return [self._lease(message, now + self.lease_seconds) for message in free], due_in

    def _lease(self, message: _Message, until: float) -> Lease:
        message.receives += 1
        message.due = until
        message.receipt = f"{next(self._leases)}"
        return Lease(message.receipt, message.body, message.receives)

    def _bring_back(self, now: float) -> None:
        for message in [message for message in self._messages if message.due is not None and message.due <= now]:
            message.due = None
            if message.receives >= MAX_RECEIVES:
                self._bury(message, f"received {MAX_RECEIVES} times and never acknowledged")

    def _bury(self, message: _Message, reason: str) -> None:
        self._messages.remove(message)
        self.dead.append((message.body, reason))

    def _of(self, leases: Sequence[Lease]) -> list[_Message]:
        receipts = {lease.receipt for lease in leases}
        return [message for message in self._messages if message.receipt in receipts]

    def _announce(self) -> None:
        for event in self._waiting:
            event.set()

    async def _wait(self, seconds: float) -> None:
        """Wait until something may be free, `seconds` at most."""
        event = asyncio.Event()
        self._waiting.add(event)
        try:
            await wait_event(event, seconds)
        finally:
            self._waiting.discard(event)
