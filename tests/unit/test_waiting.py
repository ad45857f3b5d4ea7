"""Work that is cut off shortly after a stop, and tasks that end when they are cancelled, whatever fails then."""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

import pytest

from facewire.runtime.background import background
from facewire.runtime.backoff import end_if_cancelled, run_until


async def after(event: asyncio.Event) -> str:
    await event.wait()
    return "done"


async def test_work_that_ends_before_the_stop_or_in_the_moment_after_it_counts() -> None:
    stop, goes_on = asyncio.Event(), asyncio.Event()
    goes_on.set()
    assert await run_until(after(goes_on), stop, moment=0, grace=1) == "done"
    goes_on.clear()
    stop.set()
    asyncio.get_running_loop().call_later(0.01, goes_on.set)
    assert await run_until(after(goes_on), stop, moment=5, grace=1) == "done"


async def test_work_that_waits_longer_is_cut_off_and_may_tidy_up() -> None:
    stop, tidied = asyncio.Event(), asyncio.Event()
    stop.set()

    async def work() -> str:
        try:
            return await after(asyncio.Event())
        finally:
            await asyncio.sleep(0.01)
            tidied.set()

    assert await run_until(work(), stop, moment=0, grace=5) is None
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
        await run_until(work(wait=False), stop, moment=0, grace=1)
    stop.set()
    assert await run_until(work(wait=True), stop, moment=0, grace=1) is None


async def test_a_caller_that_is_cancelled_takes_the_work_along() -> None:
    ended, running = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        try:
            running.set()
            await asyncio.Event().wait()
        finally:
            ended.set()

    caller = asyncio.create_task(run_until(work(), asyncio.Event(), moment=0, grace=1))
    await running.wait()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert ended.is_set()


async def _fail_when_cancelled() -> None:
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
    started: list[asyncio.Task[None]] = []

    async def group() -> None:
        async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
            started.append(tasks.create_task(work))
            await asyncio.sleep(0)
            tasks.create_task(_fail())

    with pytest.raises(ExceptionGroup, match="unhandled") as caught:
        await group()
    assert [str(error) for error in caught.value.exceptions] == ["sibling"]
    return started[0]


async def test_a_block_ends_cancelled_though_its_background_task_fails_meanwhile() -> None:
    async def work() -> None:
        with suppress(ExceptionGroup):
            async with background(_fail_when_cancelled(), name="fails"):
                await asyncio.Event().wait()

    assert (await _beside_a_failed_sibling(work())).cancelled()


async def test_a_group_that_fails_in_a_block_is_told() -> None:
    """Before Python 3.13 such a group leaves its task counted as cancelled."""
    with pytest.raises(ExceptionGroup, match="unhandled"):
        async with background(asyncio.sleep(60), name="sleeps"), asyncio.TaskGroup() as tasks:
            tasks.create_task(_fail())


async def test_a_task_that_was_cancelled_ends_though_it_fails_meanwhile() -> None:
    async def work() -> None:
        with suppress(OSError):
            await _fail_when_cancelled()
        end_if_cancelled()

    assert (await _beside_a_failed_sibling(work())).cancelled()


async def test_a_background_task_that_fails_by_itself_is_told() -> None:
    with pytest.raises(ExceptionGroup, match="unhandled"):
        async with background(_fail(), name="fails"):
            await asyncio.Event().wait()
    end_if_cancelled()


async def test_a_background_task_that_fails_at_the_end_of_the_block_is_told() -> None:
    with pytest.raises(ExceptionGroup, match="unhandled"):
        async with background(_fail_when_cancelled(), name="fails"):
            await asyncio.sleep(0)
    end_if_cancelled()
