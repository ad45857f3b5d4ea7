"""Whether it helps to hand a frame over: detectors are there, and requests do not wait for a recognizer."""

import asyncio
from collections.abc import AsyncIterator

import structlog

from facewire.adapters.mqtt.connection import Received
from facewire.domain.errors import QueueError
from facewire.runtime.readiness import Depth

_log = structlog.get_logger(__name__)

#: Every detector says each second over this topic that it is there.
DETECTORS_TOPIC = "detectors"
#: What was found stands for this long: hand-overs come by the thousand, and every look at SQS is paid for.
_STANDS_SECONDS = 1.0


class Detectors:
    """Whether a detector is there, as the detectors themselves say over their topic.

    One that has said nothing for `present_seconds` has gone.
    """

    def __init__(self, *, present_seconds: float = 3.0) -> None:
        self._present_seconds = present_seconds
        self._present_until = float("-inf")

    async def listen(self, messages: AsyncIterator[Received]) -> None:
        """Hear what comes over the topic, until cancelled."""
        async for message in messages:
            message.acknowledge()
            self._present_until = asyncio.get_running_loop().time() + self._present_seconds

    def there(self) -> bool:
        """Return whether a detector is there."""
        return asyncio.get_running_loop().time() < self._present_until


class Backlog:
    """Where requests wait for a recognizer, a second copy of one only makes them wait longer.

    Looks at the `depth` of the request queue, at most about once a second.
    """

    def __init__(self, depth: Depth) -> None:
        self._depth = depth
        self._waits = True
        self._looked_at = float("-inf")

    async def waits(self) -> bool:
        """Return whether requests wait for a recognizer, or may: the queue is out of reach.

        What recognizers have in flight does not count. It would hide a lost copy for as long as they have work at all.
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
