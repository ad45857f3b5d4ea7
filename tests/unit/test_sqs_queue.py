"""What only a stand-in for SQS shows: calls counted, answers held back, parts of batches refused."""

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest
from botocore.exceptions import ClientError  # type: ignore[import-untyped]

from facewire.adapters.aws.sqs.queue import SqsQueue, SqsQueues
from facewire.domain.errors import QueueError
from facewire.domain.ports import MAX_RECEIVES, Lease
from facewire.runtime.settings import AwsSettings

URL = "http://sqs/000000000000/q"


class FakeSqs:
    """One queue: what is sent waits for the next receive; every call is noted."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.waiting: list[dict[str, Any]] = []
        self.fail: Callable[[str, dict[str, Any]], None] = lambda _call, _arguments: None
        self.failed: list[dict[str, Any]] = []
        self.polled = asyncio.Event()
        self.answer = asyncio.Event()
        self.answer.set()

    def named(self, call: str) -> list[dict[str, Any]]:
        return [arguments for name, arguments in self.calls if name == call]

    async def get_queue_url(self, **arguments: Any) -> dict[str, Any]:
        return self._note("get_queue_url", arguments, {"QueueUrl": URL})

    async def send_message_batch(self, **arguments: Any) -> dict[str, Any]:
        return self._note("send_message_batch", arguments, {"Failed": self.failed})

    async def delete_message_batch(self, **arguments: Any) -> dict[str, Any]:
        return self._note("delete_message_batch", arguments, {})

    async def change_message_visibility_batch(self, **arguments: Any) -> dict[str, Any]:
        return self._note("change_message_visibility_batch", arguments, {})

    async def receive_message(self, **arguments: Any) -> dict[str, Any]:
        self._note("receive_message", arguments, {})
        self.polled.set()
        await self.answer.wait()
        messages, self.waiting = self.waiting, []
        return {"Messages": messages} if messages else {}

    def _note(self, call: str, arguments: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
        self.calls.append((call, arguments))
        self.fail(call, arguments)
        return answer


def message(body: str, receives: int) -> dict[str, Any]:
    return {"ReceiptHandle": f"of {body}", "Body": body, "Attributes": {"ApproximateReceiveCount": f"{receives}"}}


@pytest.fixture
def sqs() -> FakeSqs:
    return FakeSqs()


@pytest.fixture
def queues(sqs: FakeSqs) -> SqsQueues:
    client = cast("Any", sqs)
    return SqsQueues(AwsSettings(), client, client)


@pytest.fixture
def queue(queues: SqsQueues) -> SqsQueue:
    return queues.queue("q")


async def give_up_a_poll(queue: SqsQueue, sqs: FakeSqs) -> None:
    """Cancel a receive while its poll is under way; the poll stays until `sqs.answer` is set."""
    sqs.answer.clear()
    receive = asyncio.create_task(queue.receive(10, wait=20))
    await sqs.polled.wait()
    receive.cancel()
    with pytest.raises(asyncio.CancelledError):
        await receive


async def test_the_size_is_checked_before_anything_is_sent(queue: SqsQueue, sqs: FakeSqs) -> None:
    with pytest.raises(QueueError, match="too_large"):
        await queue.send([b"1"] * 10 + [b"x" * 1_000_001])
    assert sqs.calls == []


async def test_what_sqs_refuses_of_a_batch_is_an_error_that_names_its_code(queue: SqsQueue, sqs: FakeSqs) -> None:
    sqs.failed = [{"Id": "0", "Code": "InvalidMessageContents", "SenderFault": True}]
    with pytest.raises(QueueError, match="InvalidMessageContents") as caught:
        await queue.send([b"1", b"2"])
    assert caught.value.code == "refused"


async def test_one_error_of_many_batches_does_not_keep_the_others_from_being_sent(
    queue: SqsQueue, sqs: FakeSqs
) -> None:
    def refuse(call: str, arguments: dict[str, Any]) -> None:
        if call == "send_message_batch" and arguments["Entries"][0]["MessageBody"] == "10":
            raise ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "SendMessageBatch")

    sqs.fail = refuse
    with pytest.raises(QueueError, match="AccessDenied"):
        await queue.send([f"{number}".encode() for number in range(50)])
    assert len(sqs.named("send_message_batch")) == 5


async def test_what_answers_but_is_no_sqs_counts_as_out_of_reach(queue: SqsQueue, sqs: FakeSqs) -> None:
    async def nothing(**_: Any) -> dict[str, Any]:
        return {}

    sqs.get_queue_url = nothing  # type: ignore[method-assign]
    for call in (queue.send([b"1"]), queue.receive(1, wait=0), queue.depth()):
        with pytest.raises(QueueError, match=r"FACEWIRE_AWS_ENDPOINT_URL is not SQS.*'QueueUrl'") as caught:
            await call
        assert caught.value.code == "unreachable"


async def test_the_url_of_a_queue_is_asked_for_once_and_one_given_never(queues: SqsQueues, sqs: FakeSqs) -> None:
    await queues.queue("q").send([b"1"])
    await queues.queue("q").receive(1, wait=0)
    await queues.queue(URL).send([b"1"])
    assert len(sqs.named("get_queue_url")) == 1
    assert {arguments["QueueUrl"] for arguments in sqs.named("send_message_batch")} == {URL}
    assert queues.queue(URL).dead_letters().name == "q-dead"


async def test_polls_grow_longer_while_nothing_comes_up_to_the_longest(queue: SqsQueue, sqs: FakeSqs) -> None:
    async def poll() -> int:
        await queue.receive(1, wait=20)
        return int(sqs.named("receive_message")[-1]["WaitTimeSeconds"])

    loop = asyncio.get_running_loop()
    real_time, skipped = loop.time, 0.0
    loop.time = lambda: real_time() + skipped  # type: ignore[method-assign]
    note = sqs.receive_message

    async def receive_at_once(**arguments: Any) -> dict[str, Any]:
        nonlocal skipped
        answer = await note(**arguments)
        skipped += 0 if answer else arguments["WaitTimeSeconds"]
        return answer

    sqs.receive_message = receive_at_once  # type: ignore[method-assign]
    await queue.receive(1, wait=20)
    assert [arguments["WaitTimeSeconds"] for arguments in sqs.named("receive_message")] == [1, 2, 4, 8, 5]
    assert await poll() == 20
    sqs.waiting = [message("1", 1)]
    assert await poll() == 20
    sqs.waiting = [message("2", 1)]
    assert await poll() == 1


async def test_a_cancelled_receive_hands_back_what_its_poll_still_brings(
    queue: SqsQueue, queues: SqsQueues, sqs: FakeSqs
) -> None:
    await give_up_a_poll(queue, sqs)

    sqs.waiting = [message("1", 1), message("2", 1)]
    sqs.answer.set()
    await queues._end_background()

    (returned,) = sqs.named("change_message_visibility_batch")
    assert [(entry["ReceiptHandle"], entry["VisibilityTimeout"]) for entry in returned["Entries"]] == [
        ("of 1", 0),
        ("of 2", 0),
    ]
    assert len(sqs.named("receive_message")) == 1


async def test_the_end_does_not_wait_for_a_poll_forever(
    queue: SqsQueue, queues: SqsQueues, sqs: FakeSqs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("facewire.adapters.aws.sqs.connection._LAST_POLLS_SECONDS", 0.05)
    await give_up_a_poll(queue, sqs)
    async with asyncio.timeout(2):
        await queues._end_background()


async def test_the_end_does_not_wait_for_a_poll_that_was_given_up_long_ago(
    queue: SqsQueue, queues: SqsQueues, sqs: FakeSqs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("facewire.adapters.aws.sqs.connection._LAST_POLLS_SECONDS", 2.0)
    await give_up_a_poll(queue, sqs)
    loop = asyncio.get_running_loop()
    real_time = loop.time
    loop.time = lambda: real_time() + 1.9  # type: ignore[method-assign]
    async with asyncio.timeout(1):
        await queues._end_background()


async def test_an_untried_message_that_has_used_up_its_receives_is_replaced(queue: SqsQueue, sqs: FakeSqs) -> None:
    fresh, worn = Lease("fresh", b"fresh", MAX_RECEIVES - 1), Lease("worn", b"worn", MAX_RECEIVES)
    await queue.release([fresh, worn], count_attempt=False)

    (shown,) = sqs.named("change_message_visibility_batch")
    (sent,) = sqs.named("send_message_batch")
    (deleted,) = sqs.named("delete_message_batch")
    assert [entry["ReceiptHandle"] for entry in shown["Entries"]] == ["fresh"]
    assert [entry["MessageBody"] for entry in sent["Entries"]] == ["worn"]
    assert [entry["ReceiptHandle"] for entry in deleted["Entries"]] == ["worn"]


async def test_a_message_that_was_tried_keeps_its_count(queue: SqsQueue, sqs: FakeSqs) -> None:
    await queue.release([Lease("worn", b"worn", MAX_RECEIVES)], delay=1.2)
    assert sqs.named("send_message_batch") == []
    (shown,) = sqs.named("change_message_visibility_batch")
    assert shown["Entries"][0]["VisibilityTimeout"] == 2


async def test_leases_are_extended_in_batches(queue: SqsQueue, sqs: FakeSqs) -> None:
    await queue.extend([Lease(f"{number}", b"x", 1) for number in range(25)], 30)
    calls = sqs.named("change_message_visibility_batch")
    assert sorted(len(arguments["Entries"]) for arguments in calls) == [5, 10, 10]
