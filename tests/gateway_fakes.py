"""A gateway whose sink, stores and queue are lists and dictionaries."""

import asyncio
import io
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import httpx
from PIL import Image

from facewire.domain.errors import FacewireError, QueueError, StoreError
from facewire.domain.messages import Enrolled, Frame, RecognizedFaces, sha256
from facewire.domain.ports import Lease, Result, ResultPage, ResultQuery
from facewire.runtime.backoff import wait_event
from facewire.runtime.readiness import Depth, Readiness
from facewire.runtime.settings import GatewaySettings
from facewire.testing import MemoryGalleryStore, MemoryResultStore
from facewire_gateway.api.auth import KeyRing
from facewire_gateway.api.budget import Bodies
from facewire_gateway.app import create_app
from facewire_gateway.delivery.feed import Feed
from pipeline_fakes import ENROLL_KEY


def picture(size: tuple[int, int] = (8, 6), kind: str = "JPEG") -> bytes:
    encoded = io.BytesIO()
    Image.new("RGB", size, "gray").save(encoded, kind)
    return encoded.getvalue()


def answer(request_id: str, **fields: Any) -> RecognizedFaces:
    return RecognizedFaces.model_validate({"request_id": request_id, "result": "No-Face", **fields})


async def until(condition: Callable[[], object]) -> None:
    """Return once `condition` holds; TimeoutError after five seconds."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - what is watched has no event for tests alone
            await asyncio.sleep(0.001)


class FaultyResults(MemoryResultStore):
    """A result store of which the next `faults` calls of `keep` fail; it notes what it is asked for.

    `get` fails with `fault` for what is `unreadable`, and for everything once it was called `unreadable_after` times.
    """

    def __init__(self, *, unreadable: Iterable[str] = ()) -> None:
        super().__init__()
        self.queries: list[ResultQuery] = []
        self.expired: list[datetime] = []
        self.faults = 0
        self.unreadable = set(unreadable)
        self.fault: FacewireError = StoreError("io_error", "the disk failed")
        self.unreadable_after: int | None = None

    async def keep(self, answers: Sequence[RecognizedFaces]) -> list[RecognizedFaces]:
        if self.faults:
            self.faults -= 1
            raise StoreError("disk_full", "no space left")
        return await super().keep(answers)

    async def get(self, request_id: str) -> Result | None:
        if self.unreadable_after is not None:
            self.unreadable_after -= 1
        if request_id in self.unreadable or (self.unreadable_after or 0) < 0:
            raise self.fault
        return await super().get(request_id)

    async def page(self, query: ResultQuery) -> ResultPage:
        self.queries.append(query)
        return await super().page(query)

    async def expire(self, before: datetime, *, forget_before: datetime) -> int:
        assert forget_before < before
        self.expired.append(before)
        return await super().expire(before, forget_before=forget_before)


@dataclass
class FakeSink:
    """Takes frames, refuses them with `refusal`, or answers them at once with what is in `replies`.

    While `room` is cleared it waits with a frame in flight; a frame whose content hash is in `faults` is not kept.
    """

    results: FaultyResults
    frames: list[Frame] = field(default_factory=list)
    refusal: FacewireError | None = None
    enrolled: dict[str, Enrolled] = field(default_factory=dict)
    replies: dict[str, RecognizedFaces] = field(default_factory=dict)
    faults: dict[str, Exception] = field(default_factory=dict)
    arrived: int = 0
    room: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.room.set()

    async def accept(self, frame: Frame) -> None:
        self.arrived += 1
        await self.room.wait()
        if self.refusal is not None:
            raise self.refusal
        if frame.content_sha256 in self.faults:
            raise self.faults[frame.content_sha256]
        self.frames.append(frame)
        await self.results.expect(frame)
        if frame.content_sha256 in self.replies:
            reply = self.replies[frame.content_sha256].model_copy(update={"request_id": frame.request_id})
            await self.results.keep([reply])

    def reply_to(self, content: bytes, **fields: Any) -> None:
        self.replies[sha256(content)] = answer("any", **fields)


@dataclass
class FakeQueue:
    """Leases by receipt; what is received stays until acknowledged, dead-lettered or given back.

    What is given back with a delay is in `delayed` and does not come again.
    """

    waiting: list[Lease] = field(default_factory=list)
    acknowledged: list[Lease] = field(default_factory=list)
    dead_lettered: list[tuple[Lease, str]] = field(default_factory=list)
    extended: list[tuple[list[Lease], float]] = field(default_factory=list)
    delayed: list[Lease] = field(default_factory=list)
    returned: int = 0
    uncounted: int = 0
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    faults: int = 0

    async def send(self, bodies: Sequence[bytes]) -> None:
        self.waiting += [Lease(f"r{len(self.waiting)}-{len(body)}", body, 1) for body in bodies]
        self.arrived.set()

    async def receive(self, limit: int, *, wait: float) -> list[Lease]:
        if self.faults:
            self.faults -= 1
            raise QueueError("unreachable", "no answer")
        if not self.waiting and wait:
            self.arrived.clear()
            await wait_event(self.arrived, min(wait, 0.01))
        taken, self.waiting = self.waiting[:limit], self.waiting[limit:]
        return taken

    async def extend(self, leases: Sequence[Lease], seconds: float) -> None:
        self.extended.append((list(leases), seconds))

    async def acknowledge(self, leases: Sequence[Lease]) -> None:
        self.acknowledged += leases

    async def release(self, leases: Sequence[Lease], *, delay: float = 0, count_attempt: bool = True) -> None:
        self.returned += len(leases)
        self.uncounted += len(leases) * (not count_attempt)
        if delay:
            self.delayed += leases
        else:
            self.waiting += leases

    async def dead_letter(self, lease: Lease, reason: str) -> None:
        self.dead_lettered.append((lease, reason))


@dataclass
class Bench:
    """A gateway on fakes, and a client of it."""

    client: httpx.AsyncClient
    sink: FakeSink
    results: FaultyResults
    gallery: MemoryGalleryStore
    feed: Feed
    bodies: Bodies


@asynccontextmanager
async def open_bench(
    *,
    settings: GatewaySettings | None = None,
    keys: KeyRing | None = None,
    readiness: dict[str, Readiness] | None = None,
    depths: dict[str, Depth] | None = None,
) -> AsyncIterator[Bench]:
    results, gallery = FaultyResults(), MemoryGalleryStore()
    sink, feed = FakeSink(results), Feed(results, poll_seconds=0.05)
    app = create_app(
        settings or GatewaySettings.read(),
        sink=sink,
        results=results,
        gallery=gallery,
        feed=feed,
        enroll_key=ENROLL_KEY,
        keys=keys,
        readiness=readiness,
        depths=depths,
    )
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        yield Bench(client, sink, results, gallery, feed, app.state.bodies)
