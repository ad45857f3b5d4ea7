"""Whether requests wait for a recognizer: then a second copy of one only makes them wait longer."""

import asyncio

import structlog

from facewire.domain.errors import QueueError
from facewire.runtime.readiness import Depth

_log = structlog.get_logger(__name__)

#: What was found stands for this long: hand-overs come by the thousand, and every look at SQS is paid for.
_STANDS_SECONDS = 1.0


class Backlog:
    """Looks at the `depth` of the request queue, at most about once a second."""

    def __init__(self, depth: Depth) -> None:
        self._depth = depth
        self._waits = True
        self._looked_at = float("-inf")

    async def waits(self) -> bool:
        """Return whether requests wait for a recognizer, or may: the queue is out of reach.

        What recognizers have in hand does not count. It would hide a lost copy for as long as they have work at all.
        """
        clock = asyncio.get_running_loop()
        if clock.time() - self._looked_at > _STANDS_SECONDS:
            self._waits = await self._look()
            self._looked_at = clock.time()
        return self._waits

    async def _look(self) -> bool:
        try:
            return (await self._depth()).waiting > 0
        except QueueError as error:
            _log.warning("the depth of the request queue is not known", error=error.code, detail=error.detail)
            return True
