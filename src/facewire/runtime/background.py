"""A task that runs for as long as a block does."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any


@asynccontextmanager
async def background(work: Coroutine[Any, Any, None], *, name: str) -> AsyncIterator[None]:
    """Run `work` beside the block and cancel it at the block's end.

    Should `work` fail, the block is cancelled and the failure raised as an exception group. What the block itself
    raises comes out as it is: a bare TaskGroup would wrap it, and callers could no longer catch it by its class. A
    cancellation of the block wins over `work` that fails as it is cancelled with it.
    """
    failure: Exception | None = None
    cancelled = False
    try:
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(work, name=name)
            try:
                yield
            except asyncio.CancelledError:
                cancelled = not task.done()  # else it is the group that cancels, since the task has failed
                raise
            except Exception as error:  # noqa: BLE001 - raised again below, outside the group
                failure = error
            finally:
                task.cancel()
                await asyncio.wait({task})  # in the block, for `end_if_cancelled`
    except ExceptionGroup as failed:
        if cancelled:
            raise asyncio.CancelledError from failed
        raise
    if failure is not None:
        raise failure
