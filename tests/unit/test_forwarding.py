"""Answers that leave this machine: in any order of outages, none is lost, none counts as poison for it."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from facewire.adapters.sqlite.database import Database
from facewire.adapters.sqlite.queue import SqliteQueue
from facewire.domain.errors import IntakeError
from facewire.domain.messages import DetectedFaces, Frame, RecognizedFaces, failed
from facewire.domain.ports import Lease
from facewire.runtime.backoff import Backoff
from facewire.work.forwarding import FORWARDING, forward_answers, forward_dead_letters
from pipeline_fakes import ChoosyQueue, NotedQueue, eventually

FRAME = Frame.of(b"\xff\xd8\xff picture", request_id="r1", camera="door")


#: The policy of the product, which waits less.
QUICK = replace(FORWARDING, receive_seconds=0.05, drain_seconds=0.5, backoff=Backoff(first=0.001, longest=0.01))


def answer(request_id: str) -> bytes:
    frame = FRAME.model_copy(update={"request_id": request_id})
    return failed(frame, IntakeError("skipped", "the inbox is full"), source="edge").to_bytes()


async def to_the_end(forward: Awaitable[None]) -> None:
    async with asyncio.timeout(5):
        await forward


def stopped() -> asyncio.Event:
    stop = asyncio.Event()
    stop.set()
    return stop


async def test_everything_that_waits_is_sent_before_the_end() -> None:
    bodies = [answer(f"r{number}") for number in range(25)]
    answers, responses = NotedQueue(*bodies), NotedQueue()
    await to_the_end(forward_answers(answers, responses, stopped(), policy=QUICK))
    assert responses.bodies == bodies
    assert answers.bodies == []


async def test_what_comes_later_is_sent_too() -> None:
    answers, responses, stop = NotedQueue(), NotedQueue(), asyncio.Event()
    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        tasks.create_task(forward_answers(answers, responses, stop, policy=QUICK))
        await answers.send([answer("r1")])
        assert await responses.receive(1, wait=5)
        stop.set()


async def test_an_outage_costs_no_receive() -> None:
    class Counting(NotedQueue):
        most = 0

        async def acknowledge(self, leases: Sequence[Lease]) -> None:
            self.most = max(lease.receives for lease in leases)
            await super().acknowledge(leases)

    answers, responses, stop = Counting(answer("r1")), NotedQueue(), asyncio.Event()
    responses.failures["send"] = 20
    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        tasks.create_task(forward_answers(answers, responses, stop, policy=QUICK))
        (lease,) = await responses.receive(1, wait=5)
        stop.set()
    assert RecognizedFaces.from_bytes(lease.body).request_id == "r1"
    assert answers.most == 1
    assert responses.count("send") > 20
    assert answers.count("release") == 0
    assert answers.bodies == []


async def test_an_answer_that_is_refused_holds_up_no_other_and_none_is_sent_twice() -> None:
    bodies = [answer(f"r{number}") for number in range(5)]
    answers, responses = NotedQueue(*bodies), ChoosyQueue(never=b'"r1"', later=b'"r3"')
    stop = asyncio.Event()
    with capture_logs() as logs:
        async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
            tasks.create_task(forward_answers(answers, responses, stop, policy=QUICK))
            await eventually(lambda: not answers.bodies)
            stop.set()
    assert sorted(responses.bodies) == sorted(body for body in bodies if b'"r1"' not in body)
    assert [log["outcome"] for log in logs if log["log_level"] == "error"] == ["deleted"]


async def test_what_cannot_be_sent_at_the_stop_stays_and_is_lent_to_nobody() -> None:
    answers, responses = NotedQueue(answer("r1")), NotedQueue()
    responses.failures["send"] = 1000
    await to_the_end(forward_answers(answers, responses, stopped(), policy=QUICK))
    assert len(answers.bodies) == 1
    assert answers.leased == []
    assert answers.receives == [0]


async def test_a_frame_that_was_given_up_is_answered() -> None:
    dead, responses = NotedQueue(FRAME.to_bytes(), b"nonsense", answer("r2")), NotedQueue()
    await to_the_end(forward_dead_letters(dead, responses, stopped(), source="edge", policy=QUICK))
    given_up, as_it_was = (RecognizedFaces.from_bytes(body) for body in responses.bodies)
    assert (given_up.request_id, given_up.camera, given_up.source) == ("r1", "door", "edge")
    assert given_up.content_sha256 == FRAME.content_sha256
    assert given_up.error is not None
    assert (given_up.error.stage, given_up.error.code) == ("queue", "dead_letter")
    assert as_it_was.error is not None
    assert (as_it_was.request_id, as_it_was.error.code) == ("r2", "skipped")
    assert dead.bodies == []


async def test_messages_of_any_stage_are_answered_when_given_up() -> None:
    dead, responses = NotedQueue(DetectedFaces(request_id="r3").to_bytes()), NotedQueue()
    await to_the_end(forward_dead_letters(dead, responses, stopped(), source="edge", policy=QUICK))
    (body,) = responses.bodies
    assert RecognizedFaces.from_bytes(body).request_id == "r3"


async def test_a_batch_under_way_is_settled_though_the_forwarding_is_cancelled() -> None:
    sending, go_on = asyncio.Event(), asyncio.Event()

    class Slow(NotedQueue):
        async def send(self, bodies: Sequence[bytes]) -> None:
            sending.set()
            await go_on.wait()
            await super().send(bodies)

    answers, responses = NotedQueue(answer("r1")), Slow()
    async with asyncio.timeout(5):
        task = asyncio.create_task(forward_answers(answers, responses, asyncio.Event(), policy=QUICK))
        await sending.wait()
        task.cancel()
        go_on.set()
        await asyncio.wait({task})
    assert len(responses.bodies) == 1
    assert answers.bodies == []


async def test_it_ends_beside_a_failed_sibling_though_another_writer_holds_the_answers(tmp_path: Path) -> None:
    stop = asyncio.Event()
    async with Database.open(tmp_path / "spool.db") as database:
        answers = SqliteQueue(database, "answers")

        async def forward_beside_a_failing_sibling() -> None:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(forward_answers(answers, NotedQueue(), stop, policy=QUICK))
                await database.read(lambda _: None)  # the forwarding waits for the other writer by now
                message = "sibling"
                raise RuntimeError(message)

        with closing(sqlite3.connect(database.path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            group = asyncio.create_task(forward_beside_a_failing_sibling())
            await asyncio.wait({group}, timeout=10)
            ended = group.done()
            other.execute("ROLLBACK")
        stop.set()
        with pytest.raises(ExceptionGroup, match="unhandled"):
            await group
    assert ended
