"""Waits with a bound: for an event, between attempts, and for work that must not be cut in two."""

import asyncio
import random
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


def end_if_cancelled() -> None:
    """Raise CancelledError where the task has been cancelled and another error took the place of that.

    A clean-up that fails does so, and a TaskGroup with a task that fails as it is cancelled. A task that goes on then
    never ends. Before Python 3.13 a TaskGroup with a task that fails after the block has ended leaves its own task
    counted as cancelled: where its errors are caught, let the block wait for the tasks.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


async def wait_event(event: asyncio.Event, seconds: float) -> bool:
    """Return whether `event` is set, waiting up to `seconds` for it."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return event.is_set()
    return True


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long to wait before each further attempt, in seconds: `first`, then doubling up to `longest`."""

    first: float = 0.1
    longest: float = 5.0

    def pauses(self) -> Iterator[float]:
        """Yield the pauses without end, each up to a quarter more or less."""
        return growing_pauses(self.first, self.longest)


def growing_pauses(first: float, longest: float) -> Iterator[float]:
    """Yield seconds to wait before each further attempt: doubling up to `longest`, each up to a quarter more or less.

    The randomness keeps those that failed together from trying again together.
    """
    pause = first
    while True:
        yield jittered(pause)
        pause = min(pause * 2, longest)


def jittered(seconds: float) -> float:
    """Return `seconds`, up to a quarter more or less."""
    return seconds * random.uniform(0.75, 1.25)  # noqa: S311 - spreads load, guards nothing


async def shielded(work: Coroutine[Any, Any, None], *, cancelled: asyncio.Event, grace: float) -> None:
    """Run `work` to its end even if the caller is cancelled meanwhile.

    A cancellation sets `cancelled`, for the work to come to an end early, and cuts it off after `grace` seconds.
    """
    task = asyncio.create_task(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        cancelled.set()
        await asyncio.wait({task}, timeout=grace)
        task.cancel()
        raise


async def run_until(work: Coroutine[Any, Any, T], stop: asyncio.Event, *, moment: float, grace: float) -> T | None:
    """Return what `work` returns; None where it has not come to its end `moment` seconds after `stop` was set.

    What is cut off, or given up as the caller is cancelled, has `grace` seconds to put things in order.
    """
    stopped = asyncio.create_task(stop.wait(), name="stop")
    working = asyncio.create_task(work)
    try:
        await asyncio.wait({working, stopped}, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait({working}, timeout=moment)
        return working.result() if working.done() else None
    finally:
        stopped.cancel()
        working.cancel()
        await asyncio.wait({working}, timeout=grace)
        if working.done() and not working.cancelled():
            working.exception()  # looked at here, or asyncio would complain of an error nobody saw
