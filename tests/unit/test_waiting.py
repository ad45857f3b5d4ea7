"""Work that is cut off shortly after a stop, and tasks that end when they are cancelled, whatever fails then."""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from itertools import islice
from typing import Any

import pytest

from facewire.runtime.background import background
from facewire.runtime.backoff import cut_off, growing_pauses, happens_within


async def after(event: asyncio.Event) -> str:
    await event.wait()
    return "done"


async def test_work_that_ends_before_the_stop_or_in_the_moment_after_it_counts() -> None:
    stop, goes_on = asyncio.Event(), asyncio.Event()
    goes_on.set()
    assert await cut_off(after(goes_on), stop, moment=0, grace=1) == "done"
    goes_on.clear()
    stop.set()
    asyncio.get_running_loop().call_later(0.01, goes_on.set)
    assert await cut_off(after(goes_on), stop, moment=5, grace=1) == "done"


async def test_work_that_waits_longer_is_cut_off_and_may_tidy_up() -> None:
    stop, tidied = asyncio.Event(), asyncio.Event()
    stop.set()

    async def work() -> str:
        try:
            return await after(asyncio.Event())
        finally:
            await asyncio.sleep(0.01)
            tidied.set()

    assert await cut_off(work(), stop, moment=0, grace=5) is None
    assert tidied.is_set()


async def test_its_error_is_raised_before_the_stop_and_passed_over_after_the_cut() -> None:
    stop = asyncio.Event()

    async def work(*, wait: bool) -> str:
        try:
            await asyncio.sleep(60 if wait else 0)
        finally:
            message = "broken"
            raise RuntimeError(message)

    with pytest.raises(RuntimeError, match="broken"):
        await cut_off(work(wait=False), stop, moment=0, grace=1)
    stop.set()
    assert await cut_off(work(wait=True), stop, moment=0, grace=1) is None


async def test_a_caller_that_is_cancelled_takes_the_work_along() -> None:
    ended, running = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        try:
            running.set()
            await asyncio.Event().wait()
        finally:
            ended.set()

    caller = asyncio.create_task(cut_off(work(), asyncio.Event(), moment=0, grace=1))
    await running.wait()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert ended.is_set()


class _Failing:
    """What waits for ever, fails when it is cancelled, and does nothing the next time."""

    def __init__(self) -> None:
        self.attempts = 0

    async def attempt(self) -> None:
        self.attempts += 1
        if self.attempts > 1:
            return
        try:
            await asyncio.Event().wait()
        finally:
            message = "no answer"
            raise OSError(message)


async def _fail() -> None:
    message = "sibling"
    raise RuntimeError(message)


async def _beside_a_failed_sibling(work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
    """Return the task of the work after a group in which another task has failed."""
    with pytest.raises(ExceptionGroup, match="unhandled") as caught:
        async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
            task = tasks.create_task(work)
            await asyncio.sleep(0)
            tasks.create_task(_fail())
    assert [str(error) for error in caught.value.exceptions] == ["sibling"]
    return task


async def test_who_tries_again_ends_though_an_error_took_the_place_of_its_cancellation() -> None:
    failing = _Failing()

    async def work() -> None:
        for pause in islice(growing_pauses(0.001, 0.001), 2):
            try:
                await failing.attempt()
            except OSError:
                await happens_within(asyncio.Event(), pause)

    assert (await _beside_a_failed_sibling(work())).cancelled()
    assert failing.attempts == 1


async def test_a_block_ends_cancelled_though_its_background_task_fails_meanwhile() -> None:
    async def work() -> None:
        with suppress(ExceptionGroup):
            async with background(_Failing().attempt(), name="fails"):
                await asyncio.Event().wait()

    assert (await _beside_a_failed_sibling(work())).cancelled()


async def test_a_block_ends_cancelled_though_it_fails_itself_meanwhile() -> None:
    async def work() -> None:
        with suppress(OSError):
            async with background(asyncio.sleep(60), name="sleeps"):
                await _Failing().attempt()

    assert (await _beside_a_failed_sibling(work())).cancelled()


async def test_a_background_task_that_fails_by_itself_is_told() -> None:
    with pytest.raises(ExceptionGroup, match="unhandled"):
        async with background(_fail(), name="fails"):
            await asyncio.Event().wait()
