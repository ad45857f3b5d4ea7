import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import ClassVar

import pytest

from facewire.domain.errors import DetectError, FacewireError, QueueError, StoreError
from facewire.domain.messages import MAX_MESSAGE_BYTES, Frame, RecognizedFaces, Source
from facewire.domain.ports import Lease
from facewire.runtime.backoff import Backoff
from facewire.work.consumer import Policy, consume, worker_threads
from facewire.work.handler import DeadLetter, Done, Message, Outcome, Outgoing, RetryAfter, Stage
from facewire.work.retry import RetryStrategy
from pipeline_fakes import ChoosyQueue, NotedQueue, eventually


def frame(request_id: str) -> bytes:
    return Frame.of(b"picture", request_id=request_id, camera="door").to_bytes()


class FakeStage(Stage[Frame]):
    """Sends each message on as its request id; `act` may raise for it or wait first."""

    error: ClassVar[type[FacewireError]] = DetectError
    source: ClassVar[Source] = "edge"

    def __init__(self, successors: NotedQueue, responses: NotedQueue) -> None:
        super().__init__(responses)
        self.successors = successors
        self.batches: list[list[str]] = []
        self.act: Callable[[str], None] = lambda _: None
        self.together: Callable[[], None] = lambda: None
        self.gate = asyncio.Event()
        self.gate.set()
        self.at_once = 0
        self.most_at_once = 0

    def read(self, body: bytes) -> Frame:
        return Frame.from_bytes(body)

    async def handle(self, messages: Sequence[Message[Frame]]) -> Sequence[Outcome]:
        ids = [self._id(message.lease.body) for message in messages]
        self.batches.append(ids)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await self.gate.wait()
        finally:
            self.at_once -= 1
        if len(ids) > 1:
            self.together()
        return [self._outcome(request_id) for request_id in ids]

    def _id(self, body: bytes) -> str:
        return str(json.loads(body.partition(b"\0")[0])["request_id"]) if body.startswith(b"{") else body.decode()

    def _outcome(self, request_id: str) -> Outcome:
        try:
            self.act(request_id)
        except FacewireError as error:
            return error
        return Done([Outgoing(self.successors, request_id.encode())])


class Setting:
    def __init__(self, *bodies: bytes, policy: Policy | None = None, lease_seconds: float = 30.0) -> None:
        self.queue = NotedQueue(*bodies, lease_seconds=lease_seconds)
        self.successors = NotedQueue()
        self.responses = NotedQueue()
        self.stage = FakeStage(self.successors, self.responses)
        self.policy = policy or Policy()
        self.stop = asyncio.Event()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with asyncio.timeout(20), asyncio.TaskGroup() as group:
            group.create_task(self.run())
            yield
            self.stop.set()

    async def run(self) -> None:
        await consume(self.queue, self.stage, self.policy, self.stop)

    async def run_until_empty(self) -> None:
        async with self.running():
            await eventually(lambda: not self.queue.bodies)

    @property
    def answers(self) -> list[RecognizedFaces]:
        return [RecognizedFaces.from_bytes(body) for body in self.responses.bodies]


def ids(count: int) -> list[str]:
    return [f"r{number}" for number in range(count)]


async def test_sends_the_successor_then_acknowledges() -> None:
    setting = Setting(frame("a"))
    order: list[str] = []
    send, acknowledge = setting.successors.send, setting.queue.acknowledge
    setting.successors.send = lambda bodies: order.append("send") or send(bodies)  # type: ignore[func-returns-value,method-assign]
    setting.queue.acknowledge = lambda leases: order.append("acknowledge") or acknowledge(leases)  # type: ignore[func-returns-value,method-assign]
    await setting.run_until_empty()
    assert order == ["send", "acknowledge"]
    assert setting.successors.bodies == [b"a"]


async def test_works_through_everything_in_order_with_one_worker() -> None:
    setting = Setting(*(frame(name) for name in ids(50)))
    await setting.run_until_empty()
    assert setting.successors.bodies == [name.encode() for name in ids(50)]


async def test_joins_what_is_finished_into_few_sends() -> None:
    setting = Setting(*(frame(name) for name in ids(40)), policy=Policy(batch_size=8, prefetch=8))
    await setting.run_until_empty()
    assert len(setting.successors.bodies) == 40
    assert setting.successors.count("send") <= 10


async def test_leases_no_more_than_is_in_use_and_prefetched() -> None:
    policy = Policy(concurrency=2, batch_size=3, prefetch=3)
    setting = Setting(*(frame(name) for name in ids(30)), policy=policy)
    setting.stage.gate.clear()
    async with setting.running():
        await eventually(lambda: len(setting.queue.leased) == 9)
        assert setting.stage.most_at_once == 2
        setting.stage.gate.set()
        await eventually(lambda: not setting.queue.bodies)
    assert setting.stage.most_at_once == 2


async def test_a_batch_takes_what_is_there_and_waits_briefly_for_more() -> None:
    setting = Setting(policy=Policy(batch_size=4, prefetch=4, batch_wait_seconds=0.3))
    async with setting.running():
        await setting.queue.send([frame("a")])
        await eventually(lambda: setting.queue.leased)
        await setting.queue.send([frame("b")])
        await eventually(lambda: len(setting.successors.bodies) == 2)
        await setting.queue.send([frame(name) for name in ids(4)])
        await eventually(lambda: len(setting.successors.bodies) == 6)
    assert setting.stage.batches[0] == ["a", "b"]
    assert setting.stage.batches[1] == ids(4)


async def test_a_full_batch_does_not_wait() -> None:
    setting = Setting(*(frame(name) for name in ids(4)), policy=Policy(batch_size=4, prefetch=4, batch_wait_seconds=60))
    await setting.run_until_empty()
    assert setting.stage.batches == [ids(4)]


async def test_a_final_error_is_answered_failed_at_once() -> None:
    setting = Setting(frame("bad"), frame("good"))

    def refuse(request_id: str) -> None:
        if request_id == "bad":
            raise DetectError("not_an_image", "there are none")

    setting.stage.act = refuse
    await setting.run_until_empty()
    (answer,) = setting.answers
    assert (answer.request_id, answer.status, answer.camera, answer.source) == ("bad", "failed", "door", "edge")
    assert answer.error is not None
    assert (answer.error.stage, answer.error.code) == ("detect", "not_an_image")
    assert setting.successors.bodies == [b"good"]
    assert not setting.queue.returned
    assert not setting.queue.dead


async def test_an_error_that_may_pass_is_tried_again_after_growing_pauses_and_buried_on_the_fifth() -> None:
    setting = Setting(frame("a"))

    def break_down(_: str) -> None:
        raise StoreError("locked", "the database is locked")

    setting.stage.act = break_down
    await setting.run_until_empty()
    delays = [delay for _, delay in setting.queue.returned]
    assert len(delays) == 4
    for delay, nominal in zip(delays, RetryStrategy().delays, strict=True):
        assert 0.75 * nominal <= delay <= 1.25 * nominal
    (answer,) = setting.answers
    assert answer.error is not None
    assert (answer.request_id, answer.error.stage, answer.error.code) == ("a", "store", "locked")
    ((_, reason),) = setting.queue.dead
    assert reason == "5 receives, then store: locked"


@pytest.mark.parametrize(
    "error",
    [StoreError("unreachable", "nothing answers"), StoreError("disk_full", "no room"), QueueError("busy", "try again")],
)
async def test_an_outage_fails_no_message_however_long_it_lasts(error: FacewireError) -> None:
    setting, failures = Setting(frame("a")), 20

    def stay_away(_: str) -> None:
        nonlocal failures
        failures -= 1
        if failures >= 0:
            raise error

    setting.stage.act = stay_away
    await setting.run_until_empty()
    assert setting.successors.bodies == [b"a"]
    assert len(setting.queue.returned) == 20
    assert min(delay for _, delay in setting.queue.returned) > 0.5
    assert not setting.answers
    assert not setting.queue.dead


async def test_an_unforeseen_error_is_named_but_not_quoted() -> None:
    setting = Setting(frame("a"))

    def break_down(_: str) -> None:
        message = "secret pixels"
        raise ZeroDivisionError(message)

    setting.stage.act = break_down
    await setting.run_until_empty()
    (answer,) = setting.answers
    assert answer.error is not None
    assert (answer.error.stage, answer.error.code) == ("detect", "internal")
    assert "ZeroDivisionError" in answer.error.detail
    assert "secret" not in answer.error.detail


async def test_one_poison_message_does_not_fail_its_neighbours() -> None:
    setting = Setting(*(frame(name) for name in ids(4)), policy=Policy(batch_size=4, prefetch=4))

    def break_batch() -> None:
        raise ZeroDivisionError

    def refuse(request_id: str) -> None:
        if request_id == "r2":
            raise ZeroDivisionError

    setting.stage.together = break_batch
    setting.stage.act = refuse
    await setting.run_until_empty()
    assert setting.stage.batches[:5] == [ids(4), ["r0"], ["r1"], ["r2"], ["r3"]]
    assert sorted(setting.successors.bodies) == [b"r0", b"r1", b"r3"]
    assert [answer.request_id for answer in setting.answers] == ["r2"]


async def test_a_message_that_crashed_every_process_is_not_tried_again() -> None:
    setting = Setting()
    setting.queue.put(frame("killer"), receives=5)
    setting.queue.put(frame("a"))
    await setting.run_until_empty()
    assert setting.stage.batches == [["a"]]
    assert [answer.request_id for answer in setting.answers] == ["killer"]
    assert setting.queue.dead


async def test_a_message_without_a_readable_frame_is_answered_by_its_request_id() -> None:
    setting = Setting(b'{"request_id": "r1", "content": 5}')

    def refuse(_: str) -> None:
        raise DetectError("bad_message", "no frame")

    setting.stage.act = refuse
    await setting.run_until_empty()
    assert [(answer.request_id, answer.status) for answer in setting.answers] == [("r1", "failed")]


@pytest.mark.parametrize("body", [b"junk", b"[1]", b'{"request_id": "a/b"}', b"{}"])
async def test_a_message_that_names_no_request_is_dead_lettered(body: bytes) -> None:
    setting = Setting(body)

    async def refuse(messages: Sequence[Message[Frame]]) -> Sequence[Outcome]:
        return [DetectError("bad_message", "no frame") for _ in messages]

    setting.stage.handle = refuse  # type: ignore[method-assign]
    await setting.run_until_empty()
    assert not setting.answers
    ((_, reason),) = setting.queue.dead
    assert reason == "it cannot be answered: detect: bad_message"


async def test_a_successor_too_large_for_a_queue_is_answered_failed() -> None:
    setting = Setting(frame("a"))

    async def swell(messages: Sequence[Message[Frame]]) -> Sequence[Outcome]:
        return [Done([Outgoing(setting.successors, bytes(MAX_MESSAGE_BYTES + 1))]) for _ in messages]

    setting.stage.handle = swell  # type: ignore[method-assign]
    await setting.run_until_empty()
    (answer,) = setting.answers
    assert answer.error is not None
    assert answer.error.code == "message_too_large"
    assert "1,000,001" in answer.error.detail


async def test_a_message_too_swollen_for_an_answer_is_dead_lettered() -> None:
    bare = len(Frame.of(b"picture", request_id="a", filename="").to_bytes())
    swollen = Frame.of(b"picture", request_id="a", filename="x" * (MAX_MESSAGE_BYTES - bare)).to_bytes()
    setting = Setting(swollen)

    def refuse(_: str) -> None:
        raise DetectError("not_an_image", "there are none")

    setting.stage.act = refuse
    await setting.run_until_empty()
    assert not setting.answers
    assert len(setting.queue.dead) == 1


@pytest.mark.parametrize("call", ["receive", "acknowledge"])
async def test_a_queue_out_of_reach_is_tried_until_it_answers(call: str) -> None:
    setting = Setting(*(frame(name) for name in ids(3)))
    setting.queue.failures[call] = 2
    await setting.run_until_empty()
    assert setting.successors.bodies == [name.encode() for name in ids(3)]


async def test_while_a_send_fails_nothing_is_acknowledged_nor_worked_on_twice() -> None:
    setting = Setting(*(frame(name) for name in ids(10)))
    setting.successors.failures["send"] = 3
    async with setting.running():
        await eventually(lambda: setting.successors.count("send") == 2)
        assert len(setting.queue.bodies) == 10
        assert len(setting.queue.leased) <= 2
        await eventually(lambda: not setting.queue.bodies)
    assert setting.stage.batches == [[name] for name in ids(10)]
    assert setting.successors.bodies == [name.encode() for name in ids(10)]


async def test_what_a_queue_refuses_is_answered_failed_and_its_neighbours_are_sent_once() -> None:
    setting = Setting(*(frame(name) for name in ids(10)), policy=Policy(batch_size=10, prefetch=10))
    setting.stage.successors = setting.successors = ChoosyQueue(never=b"r3", later=b"r5")
    await setting.run_until_empty()
    assert sorted(setting.successors.bodies) == [name.encode() for name in ids(10) if name != "r3"]
    (answer,) = setting.answers
    assert answer.error is not None
    assert (answer.request_id, answer.error.stage, answer.error.code) == ("r3", "detect", "message_refused")
    assert "InvalidThing" not in answer.error.detail, "what a queue says is for the log"
    ((_, reason),) = setting.queue.dead
    assert reason == "what follows from it was refused: InvalidThing"
    assert setting.stage.batches == [ids(10)]


async def test_a_message_whose_answer_is_refused_as_well_is_dead_lettered() -> None:
    setting = Setting(frame("a"), frame("b"))
    setting.stage.successors = setting.successors = ChoosyQueue(never=b"a")
    setting.responses.send = ChoosyQueue(never=b"").send  # type: ignore[method-assign]
    await setting.run_until_empty()
    assert setting.successors.bodies == [b"b"]
    assert [Frame.from_bytes(body).request_id for body, _ in setting.queue.dead] == ["a"]


async def test_leases_are_extended_while_in_flight() -> None:
    setting = Setting(frame("slow"), policy=Policy(lease_seconds=0.15), lease_seconds=0.15)
    setting.stage.gate.clear()
    async with setting.running():
        await eventually(lambda: setting.queue.count("extend") >= 6)
        setting.queue.failures["extend"] = 1
        await eventually(lambda: setting.queue.count("extend") >= 9)
        setting.stage.gate.set()
        await eventually(lambda: not setting.queue.bodies)
    assert setting.queue.received == 1


async def test_a_stop_finishes_what_is_in_flight() -> None:
    setting = Setting(*(frame(name) for name in ids(10)), policy=Policy(prefetch=2))
    setting.stage.gate.clear()
    async with setting.running():
        await eventually(lambda: len(setting.queue.leased) == 3)
        setting.stop.set()
        await asyncio.sleep(0)
        setting.stage.gate.set()
    assert setting.successors.bodies == [b"r0", b"r1", b"r2"]
    assert not setting.queue.returned
    assert len(setting.queue.bodies) == 7


async def test_a_stop_returns_what_is_not_done_by_the_deadline() -> None:
    setting = Setting(*(frame(name) for name in ids(3)), policy=Policy(prefetch=2, drain_seconds=0.05))
    setting.stage.gate.clear()
    async with setting.running():
        await eventually(lambda: len(setting.queue.leased) == 3)
        setting.stop.set()
    assert [(body, delay) for body, delay in setting.queue.returned] == [
        (frame_body, 0) for frame_body in setting.queue.bodies
    ]
    assert not setting.queue.leased
    assert not setting.successors.bodies


async def test_only_messages_that_were_tried_count_a_stop_against_them() -> None:
    setting = Setting(*(frame(name) for name in ids(3)), policy=Policy(prefetch=2, drain_seconds=0.05))
    setting.stage.gate.clear()
    async with setting.running():
        await eventually(lambda: len(setting.queue.leased) == 3)
        setting.stop.set()
    assert setting.queue.receives == [1, 0, 0]


async def test_a_stop_does_not_wait_for_an_idle_receive() -> None:
    setting = Setting(policy=Policy(receive_seconds=20))
    async with asyncio.timeout(2), setting.running():
        await eventually(lambda: setting.queue.count("receive"))


async def test_a_stop_during_an_outage_returns_what_was_not_sent() -> None:
    setting = Setting(frame("a"), policy=Policy(drain_seconds=0.05))
    setting.successors.failures["send"] = 1000
    async with setting.running():
        await eventually(lambda: setting.successors.count("send") == 1)
    assert setting.queue.returned
    assert not setting.queue.leased


async def test_a_queue_that_hangs_holds_up_a_stop_for_little_more_than_two_seconds() -> None:
    async def hang(*_: object, **__: object) -> None:
        await asyncio.Event().wait()

    setting = Setting(frame("a"), policy=Policy(drain_seconds=0.05))
    async with setting.running():
        setting.successors.send = hang  # type: ignore[method-assign]
        setting.queue.release = hang  # type: ignore[method-assign]
        await eventually(lambda: setting.stage.batches)
        stopped_at = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - stopped_at < 3


async def test_cancellation_does_not_come_between_send_and_acknowledge() -> None:
    setting = Setting(frame("a"))
    sending, go_on = asyncio.Event(), asyncio.Event()
    send = setting.successors.send

    async def slow_send(bodies: Sequence[bytes]) -> None:
        sending.set()
        await go_on.wait()
        await send(bodies)

    setting.successors.send = slow_send  # type: ignore[method-assign]
    run = asyncio.create_task(setting.run())
    async with asyncio.timeout(5):
        await sending.wait()
        run.cancel()
        asyncio.get_running_loop().call_later(0.05, go_on.set)
        with pytest.raises(asyncio.CancelledError):
            await run
    assert setting.successors.bodies == [b"a"]
    assert not setting.queue.bodies


async def test_cancellation_returns_what_is_in_flight() -> None:
    setting = Setting(frame("a"), frame("b"))
    setting.stage.gate.clear()
    run = asyncio.create_task(setting.run())
    await eventually(lambda: len(setting.queue.leased) == 2)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert not setting.queue.leased


async def test_worker_threads_do_not_outlive_their_block_when_idle() -> None:
    async with worker_threads(2, "detect") as executor:
        assert await asyncio.get_running_loop().run_in_executor(executor, lambda: 5) == 5
    with pytest.raises(RuntimeError):
        executor.submit(lambda: 5)


async def test_a_handler_says_when_its_message_comes_again_and_whether_that_counts() -> None:
    setting = Setting(frame("a"), frame("b"))
    verdicts = {"a": RetryAfter(7.0), "b": RetryAfter(9.0, count_attempt=False)}

    async def put_off(messages: Sequence[Message[Frame]]) -> Sequence[Outcome]:
        found = [verdicts.pop(message.content.request_id, Done()) for message in messages]
        setting.stop.set()
        return found

    setting.stage.handle = put_off  # type: ignore[method-assign]
    async with setting.running():
        await eventually(lambda: len(setting.queue.returned) == 2)
    assert [delay for _, delay in setting.queue.returned] == [7.0, 9.0]
    assert setting.queue.receives == [1, 0]


async def test_a_handler_may_dead_letter_a_message_and_send_something_for_it() -> None:
    setting = Setting(frame("a"))

    async def give_up(messages: Sequence[Message[Frame]]) -> Sequence[Outcome]:
        return [DeadLetter("of no use", [Outgoing(setting.responses, b"told")]) for _ in messages]

    setting.stage.handle = give_up  # type: ignore[method-assign]
    await setting.run_until_empty()
    assert setting.queue.dead == [(frame_body, "of no use") for frame_body, _ in setting.queue.dead]
    assert len(setting.queue.dead) == 1
    assert setting.responses.bodies == [b"told"]


async def test_without_dead_letters_a_message_of_no_use_is_deleted() -> None:
    setting = Setting(b"junk", policy=Policy(dead_letter=False))

    def refuse(_: str) -> None:
        raise DetectError("bad_message", "no frame")

    setting.stage.act = refuse
    await setting.run_until_empty()
    assert not setting.queue.dead


async def test_messages_that_are_held_in_an_outage_stay_leased_and_keep_their_order() -> None:
    policy = Policy(hold=True, backoff=Backoff(first=0.001, longest=0.01))
    setting, failures = Setting(*(frame(name) for name in ids(5)), policy=policy), 20

    def stay_away(_: str) -> None:
        nonlocal failures
        failures -= 1
        if failures >= 0:
            raise StoreError("refused", "no right to do that")

    setting.stage.act = stay_away
    await setting.run_until_empty()
    assert setting.successors.bodies == [name.encode() for name in ids(5)]
    assert not setting.queue.returned


async def test_a_stop_gives_back_what_is_held_and_counts_no_attempt() -> None:
    setting = Setting(frame("a"), policy=Policy(hold=True, backoff=Backoff(first=0.001, longest=0.01)))

    def stay_away(_: str) -> None:
        raise StoreError("unreachable", "nothing answers")

    setting.stage.act = stay_away
    async with setting.running():
        await eventually(lambda: len(setting.stage.batches) > 3)
    assert setting.queue.receives == [0]


async def test_a_stop_empties_the_queue_where_it_is_told_to() -> None:
    setting = Setting(*(frame(name) for name in ids(50)), policy=Policy(until_empty=True))
    setting.stop.set()
    async with setting.running():
        pass
    assert setting.successors.bodies == [name.encode() for name in ids(50)]


def test_the_content_of_a_message_is_read_once_and_so_is_its_error() -> None:
    reads = []

    def read(body: bytes) -> Frame:
        reads.append(body)
        return Frame.from_bytes(body)

    good, bad = (Message(Lease("1", body, 1), read) for body in (frame("a"), b"junk"))
    assert good.content is good.content
    for _ in range(2):
        with pytest.raises(FacewireError):
            assert bad.content
    assert len(reads) == 2


@pytest.mark.parametrize(("receives", "nominal"), [(1, 1.0), (4, 60.0), (9, 60.0)])
def test_a_retry_comes_after_the_delay_of_its_attempt(receives: int, nominal: float) -> None:
    assert 0.75 * nominal <= RetryStrategy().delay(receives) <= 1.25 * nominal
