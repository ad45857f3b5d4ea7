"""What every queue does, whatever keeps its messages."""

import asyncio
import copy
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from uuid import uuid4

import pytest

from facewire.adapters.aws.sqs.queue import SqsQueues
from facewire.adapters.sqlite.database import Database
from facewire.adapters.sqlite.queue import SqliteQueue
from facewire.domain.errors import QueueError
from facewire.domain.messages import MAX_MESSAGE_BYTES
from facewire.domain.ports import MAX_RECEIVES, Lease, Queue
from facewire.runtime.settings import AwsSettings
from facewire.testing import MemoryQueue

#: Returns the queue under test; each call another object over the same messages.
QueueMaker = Callable[[float], Queue]

#: The shortest lease that all of them know.
SHORT_LEASE = 1.0


@asynccontextmanager
async def sqlite_queue(folder: Path) -> AsyncIterator[QueueMaker]:
    async with Database.open(folder / "facewire.db") as database:
        yield lambda lease_seconds: SqliteQueue(database, "contract", lease_seconds=lease_seconds)


@asynccontextmanager
async def sqs_queue(_folder: Path) -> AsyncIterator[QueueMaker]:
    name = f"contract-{uuid4().hex}"
    async with SqsQueues.open(AwsSettings(aws_create_missing=True)) as queues:
        yield lambda lease_seconds: queues.queue(name, lease_seconds=lease_seconds)


@asynccontextmanager
async def memory_queue(_folder: Path) -> AsyncIterator[QueueMaker]:
    queue = MemoryQueue()

    def make(lease_seconds: float) -> Queue:
        other = copy.copy(queue)
        other.lease_seconds = lease_seconds
        return other

    yield make


BACKENDS: dict[str, Callable[[Path], AbstractAsyncContextManager[QueueMaker]]] = {
    "memory": memory_queue,
    "sqlite": sqlite_queue,
    "sqs": sqs_queue,
}


@pytest.fixture(params=sorted(BACKENDS))
async def make_queue(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[QueueMaker]:
    if request.param == "sqs":
        request.getfixturevalue("aws_environment")
    async with BACKENDS[request.param](tmp_path) as make:
        yield make


@pytest.fixture
def queue(make_queue: QueueMaker) -> Queue:
    return make_queue(30.0)


def bodies(leases: Sequence[Lease]) -> list[bytes]:
    return [lease.body for lease in leases]


async def test_messages_come_as_sent_and_oldest_first(queue: Queue) -> None:
    await queue.send([b"one", b'{"two": "\xc3\xa9"}'])
    await queue.send([b"three"])

    leases = await queue.receive(10, wait=2)

    assert bodies(leases) == [b"one", b'{"two": "\xc3\xa9"}', b"three"]
    assert [lease.receives for lease in leases] == [1, 1, 1]
    assert len({lease.receipt for lease in leases}) == 3


async def test_receive_gives_no_more_than_the_limit(queue: Queue) -> None:
    await queue.send([b"1", b"2", b"3"])
    assert bodies(await queue.receive(2, wait=2)) == [b"1", b"2"]
    assert bodies(await queue.receive(2, wait=2)) == [b"3"]


async def test_an_empty_queue_answers_after_the_wait(queue: Queue) -> None:
    loop = asyncio.get_running_loop()
    before = loop.time()
    assert await queue.receive(10, wait=1) == []
    assert 0.9 <= loop.time() - before < 5


async def test_sending_nothing_is_no_error(queue: Queue) -> None:
    await queue.send([])
    assert await queue.receive(1, wait=0) == []


async def test_a_leased_message_is_hidden_and_an_acknowledged_one_gone(make_queue: QueueMaker) -> None:
    queue = make_queue(SHORT_LEASE)
    await queue.send([b"1", b"2"])
    kept, gone = await queue.receive(10, wait=2)

    assert await make_queue(SHORT_LEASE).receive(10, wait=0) == []
    await queue.acknowledge([gone])

    assert bodies(await queue.receive(10, wait=5)) == [kept.body]


async def test_a_lease_that_ends_lets_the_message_come_back_counted(make_queue: QueueMaker) -> None:
    queue = make_queue(SHORT_LEASE)
    await queue.send([b"1"])
    (first,) = await queue.receive(1, wait=2)
    (second,) = await queue.receive(1, wait=5)

    assert (second.body, second.receives) == (b"1", 2)
    assert second.receipt != first.receipt


async def test_an_ended_lease_is_passed_over(make_queue: QueueMaker) -> None:
    short, long = make_queue(SHORT_LEASE), make_queue(30.0)
    await short.send([b"1"])
    (ended,) = await short.receive(1, wait=2)
    (present,) = await long.receive(1, wait=5)

    await long.extend([ended], 0)
    await long.release([ended])
    await long.dead_letter(ended, "too late")

    assert await long.receive(1, wait=1) == []
    await long.acknowledge([present])


async def test_an_extended_lease_lasts(make_queue: QueueMaker) -> None:
    queue = make_queue(SHORT_LEASE)
    await queue.send([b"1"])
    (lease,) = await queue.receive(1, wait=2)
    await queue.extend([lease], 30)

    assert await queue.receive(1, wait=2 * SHORT_LEASE) == []
    await queue.acknowledge([lease])


async def test_a_message_given_back_comes_again_at_once_or_after_its_delay(queue: Queue) -> None:
    await queue.send([b"now", b"later"])
    now, later = await queue.receive(2, wait=2)
    await queue.release([now])
    await queue.release([later], delay=1)

    (again,) = await queue.receive(2, wait=0.5)
    assert (again.body, again.receives) == (b"now", 2)
    (last,) = await queue.receive(2, wait=5)
    assert (last.body, last.receives) == (b"later", 2)


async def test_a_buried_message_does_not_come_again(make_queue: QueueMaker) -> None:
    queue = make_queue(SHORT_LEASE)
    await queue.send([b"poison", b"sound"])
    poison, sound = await queue.receive(2, wait=2)
    await queue.dead_letter(poison, "it cannot be read")
    await queue.release([sound])

    (again,) = await queue.receive(2, wait=2)
    assert again.body == b"sound"
    await queue.acknowledge([again])
    assert await queue.receive(2, wait=2 * SHORT_LEASE) == []


async def test_a_message_of_the_size_limit_passes_and_a_larger_one_does_not(queue: Queue) -> None:
    largest = b"x" * MAX_MESSAGE_BYTES
    await queue.send([largest])
    with pytest.raises(QueueError, match="1,000,000") as caught:
        await queue.send([b"small", largest + b"x"])

    assert caught.value.code == "too_large"
    assert bodies(await queue.receive(10, wait=2)) == [largest]


async def test_a_receive_that_waits_gets_what_is_sent_meanwhile(make_queue: QueueMaker) -> None:
    waiting = asyncio.ensure_future(make_queue(30.0).receive(1, wait=10))
    await asyncio.sleep(0)
    await make_queue(30.0).send([b"1"])
    async with asyncio.timeout(5):
        assert bodies(await waiting) == [b"1"]


async def test_every_message_goes_to_one_of_many_receivers(make_queue: QueueMaker) -> None:
    sent = [f"{number}".encode() for number in range(100)]
    got: list[bytes] = []

    async def consume(queue: Queue) -> None:
        while leases := await queue.receive(7, wait=0.5):
            got.extend(bodies(leases))
            await queue.acknowledge(leases)

    async with asyncio.TaskGroup() as group:
        for start in range(0, 100, 10):
            group.create_task(make_queue(30.0).send(sent[start : start + 10]))
        for _ in range(4):
            group.create_task(consume(make_queue(30.0)))

    assert sorted(got) == sorted(sent)


async def test_the_last_receive_counts_as_the_maximum(queue: Queue) -> None:
    await queue.send([b"1"])
    for receives in range(1, MAX_RECEIVES + 1):
        (lease,) = await queue.receive(1, wait=5)
        assert lease.receives == receives
        await queue.release([lease])
