"""What a queue of messages does, whatever keeps them: SQLite or SQS."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from facewire.domain.errors import QueueError

#: A message is received this often before it counts as poison.
MAX_RECEIVES = 5


@dataclass(frozen=True, slots=True)
class Lease:
    """A message on loan: nobody else receives it until the lease ends.

    `receipt` names this very loan, `receives` counts the loans so far, this one included.
    """

    receipt: str
    body: bytes
    receives: int


class PartialError(QueueError):
    """A call was done for part of what it was given: `left` may be tried again, `refused` would be refused again.

    Both are positions in the sequence that was given; everything else is done.
    """

    def __init__(self, code: str, detail: str, *, left: Sequence[int], refused: Sequence[int]) -> None:
        super().__init__(code, detail)
        self.left = left
        self.refused = refused


class Sender(Protocol):
    """What takes messages; QueueError where it cannot take them now, PartialError where it took some."""

    async def send(self, bodies: Sequence[bytes]) -> None:
        """Keep each of `bodies` (at most 1,000,000 bytes each) durably before returning."""


class Queue(Sender, Protocol):
    """Messages that stay until acknowledged. Every call raises QueueError where the queue cannot answer."""

    async def receive(self, limit: int, *, wait: float) -> list[Lease]:
        """Return up to `limit` messages, oldest first, waiting up to `wait` seconds for the first."""

    async def extend(self, leases: Sequence[Lease], seconds: float) -> None:
        """Make the leases end `seconds` from now. A lease that has already ended is passed over."""

    async def acknowledge(self, leases: Sequence[Lease]) -> None:
        """Delete the messages. A lease that has already ended is passed over."""

    async def give_back(self, leases: Sequence[Lease], *, delay: float = 0, unused: bool = False) -> None:
        """Let others receive the messages again, `delay` seconds from now.

        `unused` says that nobody has tried them: the receive does not count. A queue whose count cannot be turned
        back, as that of SQS, passes over it.
        """

    async def bury(self, lease: Lease, reason: str) -> None:
        """Move the message to the dead letters, with the reason."""


@runtime_checkable
class AtomicQueue(Queue, Protocol):
    """A queue that can send to others and acknowledge in one step."""

    def commits_with(self, queue: Sender) -> bool:
        """Return whether `hand_on` may send to `queue`."""

    async def hand_on(self, leases: Sequence[Lease], sends: Sequence[tuple[Sender, Sequence[bytes]]]) -> None:
        """Send each queue's bodies and acknowledge `leases`, all or nothing."""
