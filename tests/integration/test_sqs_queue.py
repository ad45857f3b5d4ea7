"""What SQS does that SQLite does not: it goes away, forgets its queues, lends to those who have gone."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import ClassVar
from uuid import uuid4

import pytest
from structlog.testing import capture_logs

from aws_emulator import PROGRAM, free_port, ministack
from facewire.adapters.aws.clients import sqs_client
from facewire.adapters.aws.sqs.queue import SqsDepth, SqsQueue, SqsQueues
from facewire.domain.errors import DetectError, FacewireError, QueueError
from facewire.domain.messages import Frame, Source
from facewire.domain.ports import MAX_RECEIVES, Lease, PartialError
from facewire.runtime.settings import AwsSettings
from facewire.work.consumer import Policy, consume
from facewire.work.handler import Done, Message, Outcome, Outgoing, Stage
from pipeline_fakes import eventually


@pytest.fixture
async def queues(aws_environment: str) -> AsyncIterator[SqsQueues]:
    async with (
        asyncio.timeout(60),
        SqsQueues.open(AwsSettings(aws_endpoint_url=aws_environment, aws_create_missing=True)) as opened,
    ):
        yield opened


@pytest.fixture
def make_queue(queues: SqsQueues) -> Callable[..., SqsQueue]:
    return lambda lease_seconds=30.0: queues.queue(f"t-{uuid4().hex}", lease_seconds=lease_seconds)


@pytest.fixture
def queue(make_queue: Callable[..., SqsQueue]) -> SqsQueue:
    return make_queue()


async def take_all(queue: SqsQueue) -> list[Lease]:
    leases: list[Lease] = []
    while more := await queue.receive(10, wait=0):
        leases += more
    return leases


async def test_many_messages_go_in_batches_of_the_size_sqs_takes(queue: SqsQueue) -> None:
    bodies = [bytes(f"{number}:", "ascii") + b"x" * 60_000 for number in range(45)]
    await queue.send(bodies)
    leases = await take_all(queue)
    assert sorted(lease.body for lease in leases) == sorted(bodies)
    await queue.acknowledge(leases)
    assert await queue.depth() == SqsDepth(0, 0, 0, 0)


async def test_messages_near_the_limit_go_one_by_one(queue: SqsQueue) -> None:
    await queue.send([b"a" * 1_000_000, b"b" * 1_000_000, b"c"])
    assert [len(lease.body) for lease in await take_all(queue)] == [1_000_000, 1_000_000, 1]


async def test_depth_tells_waiting_leased_and_dead(queue: SqsQueue) -> None:
    await queue.send([b"1", b"2", b"3", b"4"])
    kept, given_up = await queue.receive(2, wait=2)
    await queue.dead_letter(given_up, "it cannot be read\x00")

    assert await queue.depth() == SqsDepth(waiting=2, leased=1, delayed=0, dead=1)
    dead = queue.dead_letters()
    assert await dead.depth() == SqsDepth(1, 0, 0, 0)
    (lease,) = await dead.receive(10, wait=2)
    assert lease.body == given_up.body
    await dead.acknowledge([lease])
    await queue.acknowledge([kept])


async def test_a_dead_letter_carries_its_reason(queue: SqsQueue, queues: SqsQueues) -> None:
    await queue.send([b"1"])
    (lease,) = await queue.receive(1, wait=2)
    await queue.dead_letter(lease, "5 receives, then DecodeError")
    url = (await queues.calls.get_queue_url(QueueName=f"{queue.name}-dead"))["QueueUrl"]
    answer = await queues.calls.receive_message(QueueUrl=url, MessageAttributeNames=["All"])
    attribute = answer["Messages"][0]["MessageAttributes"]["reason"]
    assert attribute["StringValue"] == "5 receives, then DecodeError"


async def test_a_queue_can_be_named_by_its_url(queue: SqsQueue, queues: SqsQueues) -> None:
    await queue.send([b"1"])
    url = (await queues.calls.get_queue_url(QueueName=queue.name))["QueueUrl"]
    (lease,) = await queues.queue(url).receive(1, wait=2)
    assert lease.body == b"1"


async def test_being_returned_untried_again_and_again_does_not_make_poison(queue: SqsQueue) -> None:
    await queue.send([b"1"])
    for _ in range(3 * MAX_RECEIVES):
        (lease,) = await queue.receive(1, wait=5)
        assert lease.receives <= MAX_RECEIVES
        await queue.release([lease], count_attempt=False)
    assert await queue.depth() == SqsDepth(1, 0, 0, 0)


async def test_what_a_cancelled_receive_is_lent_comes_back_long_before_its_lease_ends(queue: SqsQueue) -> None:
    receive = asyncio.create_task(queue.receive(10, wait=20))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await asyncio.shield(receive)
    receive.cancel()
    await queue.send([b"1"])
    async with asyncio.timeout(10):
        (lease,) = await queue.receive(10, wait=20)
    assert lease.body == b"1"


async def test_the_end_leaves_nothing_lent_to_a_poll_that_was_given_up(aws_environment: str) -> None:
    settings = AwsSettings(aws_endpoint_url=aws_environment, aws_create_missing=True)
    name = f"t-{uuid4().hex}"
    async with asyncio.timeout(30), SqsQueues.open(settings) as other:
        async with SqsQueues.open(settings) as queues:
            receive = asyncio.create_task(queues.queue(name).receive(10, wait=20))
            # Long enough for the poll to be there: it makes the queue first.
            await eventually(lambda: bool(queues._urls))
            await asyncio.wait({receive}, timeout=0.3)
            receive.cancel()
            await asyncio.wait({receive})
            await other.queue(name).send([b"1"])
        assert await other.queue(name).depth() == SqsDepth(1, 0, 0, 0)


async def test_of_a_batch_with_a_message_that_is_too_large_for_the_queue_the_rest_is_sent(
    queue: SqsQueue, aws_environment: str
) -> None:
    await queue.depth()
    async with sqs_client(AwsSettings(aws_endpoint_url=aws_environment)) as client:
        url = (await client.get_queue_url(QueueName=queue.name))["QueueUrl"]
        await client.set_queue_attributes(QueueUrl=url, Attributes={"MaximumMessageSize": "262144"})
    with pytest.raises(PartialError) as caught:
        await queue.send([b"1", b"x" * 600_000, b"2"])
    assert (caught.value.left, caught.value.refused) == ([], [1])
    assert (await queue.depth()).waiting == 2


async def test_a_missing_queue_is_named_with_what_makes_it(aws_environment: str) -> None:
    async with SqsQueues.open(AwsSettings(aws_endpoint_url=aws_environment)) as queues:
        queue = queues.queue("nobody-made-this")
        for call in (queue.send([b"1"]), queue.receive(1, wait=1), queue.depth()):
            with pytest.raises(QueueError, match=r"'nobody-made-this'.*`facewire aws init`") as caught:
                await call
            assert caught.value.code == "no_such_queue"


@pytest.mark.usefixtures("aws_environment")
async def test_nothing_answering_is_said_in_a_few_seconds() -> None:
    settings = AwsSettings(aws_endpoint_url=f"http://127.0.0.1:{free_port()}")
    async with asyncio.timeout(15), SqsQueues.open(settings) as queues:
        with pytest.raises(QueueError, match="FACEWIRE_AWS_ENDPOINT_URL") as caught:
            await queues.queue("q").receive(1, wait=20)
    assert caught.value.code == "unreachable"


@pytest.mark.skipif(not PROGRAM.exists(), reason="needs ministack in .venv-ministack: make setup")
@pytest.mark.usefixtures("aws_environment")
async def test_queues_that_a_restart_forgot_are_made_again(tmp_path: Path) -> None:
    port = free_port()
    settings = AwsSettings(aws_endpoint_url=f"http://127.0.0.1:{port}", aws_create_missing=True)
    async with asyncio.timeout(60), SqsQueues.open(settings) as queues:
        queue = queues.queue("q")
        with ministack(tmp_path / "log", port):
            await queue.send([b"before"])
            (lease,) = await queue.receive(1, wait=2)
        with pytest.raises(QueueError) as caught:
            await queue.receive(1, wait=1)
        assert caught.value.code == "unreachable"
        with ministack(tmp_path / "log", port), capture_logs() as logs:
            await asyncio.gather(
                queue.acknowledge([lease]), queue.extend([lease], 30), *(queue.send([b"%d" % n]) for n in range(5))
            )
            assert (await queue.depth()).waiting == 5
            await queue.dead_letter((await queue.receive(1, wait=2))[0], "poison")
            assert (await queue.depth()).dead == 1
    assert [log["queues"] for log in logs if log["log_level"] == "warning"] == [["q", "q-dead"]]


class SlowStage(Stage[Frame]):
    """Answers each frame with its request id after `seconds`."""

    error: ClassVar[type[FacewireError]] = DetectError
    source: ClassVar[Source] = "edge"

    def __init__(self, answers: SqsQueue, seconds: float) -> None:
        super().__init__(answers)
        self.answers = answers
        self.seconds = seconds
        self.worked_on: list[str] = []

    def read(self, body: bytes) -> Frame:
        return Frame.model_validate_json(body)

    async def handle(self, messages: Sequence[Message[Frame]]) -> Sequence[Outcome]:
        ids = [message.content.request_id for message in messages]
        self.worked_on += ids
        await asyncio.sleep(self.seconds)
        return [Done([Outgoing(self.answers, request_id.encode())]) for request_id in ids]


def frame(number: int) -> bytes:
    return (
        b'{"request_id": "r%d", "content": "AAAA", "content_sha256": "%064d", "received_at": "2026-11-22T00:00:00Z"}'
        % (number, 0)
    )


@asynccontextmanager
async def working(stage: SlowStage, queue: SqsQueue, policy: Policy) -> AsyncIterator[asyncio.Event]:
    stop = asyncio.Event()
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        group.create_task(consume(queue, stage, policy, stop))
        yield stop
        stop.set()


async def test_a_worker_works_through_a_queue_and_leaves_it_empty(make_queue: Callable[..., SqsQueue]) -> None:
    requests, answers = make_queue(), make_queue()
    await requests.send([frame(number) for number in range(40)])
    stage = SlowStage(answers, 0.0)
    async with working(stage, requests, Policy(batch_size=8, prefetch=8, receive_seconds=20)):
        await eventually(lambda: len(stage.worked_on) == 40)
    got = sorted(lease.body.decode() for lease in await take_all(answers))
    assert got == sorted(f"r{number}" for number in range(40))
    assert await requests.depth() == SqsDepth(0, 0, 0, 0)


async def test_a_message_in_hand_is_kept_from_others_for_longer_than_its_lease(
    make_queue: Callable[..., SqsQueue],
) -> None:
    requests, answers = make_queue(lease_seconds=2), make_queue()
    await requests.send([frame(1)])
    stage = SlowStage(answers, 5.0)
    async with working(stage, requests, Policy(lease_seconds=2, receive_seconds=20, drain_seconds=10)):
        await eventually(lambda: bool(stage.worked_on))
        (answer,) = await answers.receive(1, wait=10)
    assert answer.body == b"r1"
    assert stage.worked_on == ["r1"]
    assert (await requests.depth()).waiting == 0


async def test_a_worker_that_stops_leaves_nothing_in_flight(make_queue: Callable[..., SqsQueue]) -> None:
    requests, answers = make_queue(), make_queue()
    await requests.send([frame(number) for number in range(40)])
    stage = SlowStage(answers, 0.2)
    async with working(stage, requests, Policy(batch_size=4, prefetch=8, receive_seconds=20)) as stop:
        await eventually(lambda: len(stage.worked_on) >= 8)
        stop.set()
    depth = await requests.depth()
    assert depth.leased == 0
    assert depth.waiting + (await answers.depth()).waiting == 40
