"""What `facewire aws` does."""

import asyncio
from collections.abc import Callable

from facewire.adapters.aws.provision import ensure_all
from facewire.domain.errors import FacewireError, is_outage
from facewire.runtime.backoff import growing_pauses
from facewire.runtime.settings import StoreSettings

#: What may get better by itself: nothing answers yet, or it has only just started.
_FIRST_PAUSE_SECONDS = 0.2
_LONGEST_PAUSE_SECONDS = 2.0


async def init_aws(settings: StoreSettings, *, wait_seconds: float, write: Callable[[str], None]) -> None:
    """Make what is missing and write one line for each thing: made, or was there.

    Where AWS does not answer it is tried again for up to `wait_seconds`; then the QueueError or StoreError is raised.
    """
    deadline = asyncio.get_running_loop().time() + wait_seconds
    seen: set[tuple[str, str]] = set()
    for pause in growing_pauses(_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS):
        try:
            async for thing in ensure_all(settings):
                if (thing.kind, thing.name) not in seen:
                    seen.add((thing.kind, thing.name))
                    write(f"{thing.kind} {thing.name}: {'made' if thing.made else 'was there'}")
        except FacewireError as error:
            if not is_outage(error) or asyncio.get_running_loop().time() + pause > deadline:
                raise
            await asyncio.sleep(pause)
        else:
            return
