"""Random walks over the queue in SQLite, compared with a model of a few lines."""

import asyncio
import tempfile
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, rule

from facewire.adapters.sqlite.database import Database
from facewire.adapters.sqlite.queue import QueueDepth, SqliteQueue
from facewire.domain.ports import MAX_RECEIVES, Lease

FAR = 1000.0


@dataclass
class Message:
    """`state` is waiting, leased, delayed, or due: back at the next receive."""

    body: bytes
    state: str = "waiting"
    receives: int = 0
    receipt: str | None = None


class QueueMachine(RuleBasedStateMachine):
    """Every call on the queue and on the model side by side."""

    leases = Bundle("leases")

    def __init__(self) -> None:
        super().__init__()
        self.bodies = (b"%d" % number for number in count())
        self.messages: list[Message] = []
        self.dead: list[bytes] = []
        self.runner = asyncio.Runner()
        self.stack = AsyncExitStack()
        self.folder = tempfile.TemporaryDirectory()

    @initialize()
    def open(self) -> None:
        self.database = self.runner.run(self._open())
        self.queue = SqliteQueue(self.database, "test", lease_seconds=FAR)

    async def _open(self) -> Database:
        path = Path(self.folder.name) / "facewire.db"
        return await self.stack.enter_async_context(Database.open(path))

    def teardown(self) -> None:
        self.runner.run(self.stack.aclose())
        self.runner.close()
        self.folder.cleanup()

    @rule(number=st.integers(0, 4))
    def send(self, number: int) -> None:
        bodies = [next(self.bodies) for _ in range(number)]
        self.runner.run(self.queue.send(bodies))
        self.messages += [Message(body) for body in bodies]

    @rule(target=leases, limit=st.integers(1, 4))
    def receive(self, limit: int) -> object:
        return multiple(*self._receive(limit))

    @rule(times=st.integers(1, MAX_RECEIVES))
    def receive_and_lose(self, times: int) -> None:
        for _ in range(times):
            for lease in self._receive(1):
                self.lose(lease)

    def _receive(self, limit: int) -> list[Lease]:
        self._bring_back()
        expected = [message for message in self.messages if message.state == "waiting"][:limit]
        got = self.runner.run(self.queue.receive(limit, wait=0))
        for message, lease in zip(expected, got, strict=True):
            message.state, message.receipt = "leased", lease.receipt
            message.receives += 1
            assert (lease.body, lease.receives) == (message.body, message.receives)
        return got

    def _bring_back(self) -> None:
        for message in list(self.messages):
            if message.state == "due" and message.receives >= MAX_RECEIVES:
                self._bury(message)
            elif message.state == "due":
                message.state = "waiting"

    def _bury(self, message: Message) -> None:
        self.messages.remove(message)
        self.dead.append(message.body)

    def _held(self, lease: Lease) -> list[Message]:
        return [message for message in self.messages if message.receipt == lease.receipt]

    @rule(lease=leases)
    def lose(self, lease: Lease) -> None:
        self.runner.run(self.queue.extend([lease], -1))
        for message in self._held(lease):
            message.state = "due"

    @rule(lease=leases)
    def extend(self, lease: Lease) -> None:
        self.runner.run(self.queue.extend([lease], FAR))
        for message in self._held(lease):
            message.state = "leased"

    @rule(lease=leases)
    def acknowledge(self, lease: Lease) -> None:
        self.runner.run(self.queue.acknowledge([lease]))
        for message in self._held(lease):
            self.messages.remove(message)

    @rule(lease=leases, delayed=st.booleans())
    def release(self, lease: Lease, *, delayed: bool) -> None:
        self.runner.run(self.queue.release([lease], delay=FAR if delayed else 0))
        for message in self._held(lease):
            message.state, message.receipt = "delayed" if delayed else "due", None

    @rule(lease=leases)
    def dead_letter(self, lease: Lease) -> None:
        self.runner.run(self.queue.dead_letter(lease, "a test"))
        for message in self._held(lease):
            self._bury(message)

    @rule()
    def restart(self) -> None:
        self.runner.run(self.stack.aclose())
        self.open()

    @invariant()
    def depth_is_that_of_the_model(self) -> None:
        leased = sum(message.state == "leased" for message in self.messages)
        size = sum(len(message.body) for message in self.messages)
        expected = QueueDepth(len(self.messages) - leased, leased, len(self.dead), size)
        assert self.runner.run(self.queue.depth()) == expected


# Finding the shortest failing walk would take minutes, each step being a commit; walks are short as they are.
QueueMachine.TestCase.settings = settings(
    max_examples=15, stateful_step_count=25, deadline=None, database=None, phases=[Phase.generate]
)
TestQueue = QueueMachine.TestCase
