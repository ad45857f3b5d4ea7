"""The messages a consumer has leased: prefetched, being worked on, or with what follows from them on its way."""

import asyncio
from collections import deque
from collections.abc import Sequence

from prometheus_client import Gauge

from facewire.domain.ports import Lease


class InFlight:
    """At most `capacity` leases: a fetch waits for room, work waits for messages."""

    def __init__(self, capacity: int, gauge: Gauge) -> None:
        self._capacity = capacity
        self._gauge = gauge
        self._waiting: deque[Lease] = deque()
        self._held: dict[str, Lease] = {}
        self._changed = asyncio.Condition()
        self._closed = False

    def __len__(self) -> int:
        return len(self._held)

    @property
    def leases(self) -> list[Lease]:
        """Every lease in flight, in the order of arrival."""
        return list(self._held.values())

    @property
    def untried(self) -> list[Lease]:
        """The prefetched leases, which no work has been done for."""
        return list(self._waiting)

    async def room(self, least: int) -> int:
        """Return how many more leases fit in, as soon as it is at least `least`."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._capacity - len(self._held) >= least)
            return self._capacity - len(self._held)

    async def put(self, leases: Sequence[Lease]) -> None:
        """Add leases that wait to be worked on."""
        self._held.update((lease.receipt, lease) for lease in leases)
        self._waiting.extend(leases)
        await self._announce()

    async def take(self, limit: int, wait: float) -> list[Lease]:
        """Return the 1 to `limit` oldest waiting leases; having one, wait up to `wait` seconds for more.

        Returns an empty list once closed, when nothing waits any more. What is taken stays in flight
        until it is removed.
        """
        async with self._changed:
            await self._changed.wait_for(lambda: self._waiting or self._closed)
            if wait:
                await self._wait_for_more(limit, wait)
            return [self._waiting.popleft() for _ in range(min(limit, len(self._waiting)))]

    async def remove(self, leases: Sequence[Lease]) -> None:
        """Forget leases that are settled."""
        for lease in leases:
            self._held.pop(lease.receipt, None)
        await self._announce()

    async def close(self) -> None:
        """Say that nothing more will be put in."""
        self._closed = True
        await self._announce()

    async def _announce(self) -> None:
        self._gauge.set(len(self._held))
        async with self._changed:
            self._changed.notify_all()

    async def _wait_for_more(self, limit: int, wait: float) -> None:
        try:
            async with asyncio.timeout(wait):
                await self._changed.wait_for(lambda: len(self._waiting) >= limit or self._closed)
        except TimeoutError:
            # Another worker may have taken what waited meanwhile.
            await self._changed.wait_for(lambda: self._waiting or self._closed)
