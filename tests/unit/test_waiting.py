"""Work that is cut off shortly after a stop."""

import asyncio

import pytest

from facewire.runtime.backoff import cut_off


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
