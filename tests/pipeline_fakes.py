"""What tests of the stages stand on: queues in memory that note and fail, the gallery store, the embedder."""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from facewire.domain.enrolment import proof_of
from facewire.domain.errors import FacewireError, QueueError
from facewire.domain.messages import DetectedFaces, Frame, now
from facewire.domain.ports import EnrolledFace, GalleryStore, Lease, PartialError
from facewire.testing import MemoryGalleryStore, MemoryQueue
from facewire.vision.embedder import EmbedderSpec
from facewire.vision.models import find_spec

Request = TypeVar("Request", Frame, DetectedFaces)
ENROLL_KEY = b"the key of the gateway and the recognizer alone"


def proven(request: Request) -> Request:
    """Return the enrolment with the proof that a gateway gives it."""
    return request.model_copy(update={"enroll_proof": proof_of(ENROLL_KEY, request)})


class NotedQueue(MemoryQueue):
    """A queue that notes every call and fails those it is told to; delays are noted, not waited for."""

    def __init__(self, *bodies: bytes, lease_seconds: float = 30.0) -> None:
        super().__init__(*bodies, lease_seconds=lease_seconds)
        self.calls: list[tuple[str, int]] = []
        self.returned: list[tuple[bytes, float]] = []
        self.failures: Counter[str] = Counter()
        self.received = 0

    async def send(self, bodies: Sequence[bytes]) -> None:
        self._call("send", len(bodies))
        await super().send(bodies)

    async def receive(self, limit: int, *, wait: float) -> list[Lease]:
        self._call("receive", limit)
        leases = await super().receive(limit, wait=wait)
        self.received += len(leases)
        return leases

    async def extend(self, leases: Sequence[Lease], seconds: float) -> None:
        self._call("extend", len(leases))
        await super().extend(leases, seconds)

    async def acknowledge(self, leases: Sequence[Lease]) -> None:
        self._call("acknowledge", len(leases))
        await super().acknowledge(leases)

    async def release(self, leases: Sequence[Lease], *, delay: float = 0, count_attempt: bool = True) -> None:
        self._call("release", len(leases))
        self.returned += [(lease.body, delay) for lease in leases]
        await super().release(leases, count_attempt=count_attempt)

    async def dead_letter(self, lease: Lease, reason: str) -> None:
        self._call("dead_letter", 1)
        await super().dead_letter(lease, reason)

    def count(self, call: str) -> int:
        return sum(name == call for name, _ in self.calls)

    def _call(self, name: str, size: int) -> None:
        self.calls.append((name, size))
        if self.failures[name] > 0:
            self.failures[name] -= 1
            raise QueueError("out_of_reach", f"{name} was told to fail")


class ChoosyQueue(NotedQueue):
    """Never takes bodies that hold `never`, and those that hold `later` on the second attempt only."""

    def __init__(self, never: bytes, later: bytes = b"no such thing") -> None:
        super().__init__()
        self._never = never
        self._later = later

    async def send(self, bodies: Sequence[bytes]) -> None:
        refused = [position for position, body in enumerate(bodies) if self._never in body]
        left = [position for position, body in enumerate(bodies) if self._later in body]
        self._later = b"no such thing" if left else self._later
        await super().send([body for position, body in enumerate(bodies) if position not in {*refused, *left}])
        if refused or left:
            raise PartialError("unavailable" if left else "refused", "InvalidThing", left=left, refused=refused)


class FaultyGallery(MemoryGalleryStore):
    """A gallery store of which every call raises `failure`, while that is set."""

    def __init__(self, failure: FacewireError | None = None) -> None:
        super().__init__()
        self.failure = failure
        self.refusals = 0

    async def version(self) -> int:
        self._check()
        return await super().version()

    async def add(self, faces: Sequence[EnrolledFace]) -> int:
        self._check()
        return await super().add(faces)

    async def add_embeddings(self, faces: Sequence[EnrolledFace]) -> int:
        self._check()
        return await super().add_embeddings(faces)

    async def faces(self, embedder: str | None = None) -> tuple[int, list[EnrolledFace]]:
        self._check()
        return await super().faces(embedder)

    async def crops(self) -> list[EnrolledFace]:
        self._check()
        return await super().crops()

    def _check(self) -> None:
        if self.failure is not None:
            self.refusals += 1
            raise self.failure


async def embed_as(gallery: GalleryStore, embedder: str, embedding: bytes) -> None:
    """Let the one face of the gallery have that embedding alone."""
    (face,) = await gallery.crops()
    await gallery.delete_person(face.person)
    await gallery.add([replace(face, embedder=embedder, embedding=embedding, enrolled_at=now())])


class ColourEmbedder:
    """Embeds a face as the unit vector of its mean red, green and blue: pictures of one colour are one person."""

    def __init__(self, identifier: str = "colour") -> None:
        self._spec = make_spec(identifier)
        self.batches: list[int] = []

    @property
    def spec(self) -> EmbedderSpec:
        return self._spec

    def embed(self, faces: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.batches.append(len(faces))
        means = faces.reshape(len(faces), -1, 3).mean(axis=1, dtype=np.float64) if len(faces) else np.empty((0, 3))
        unit: NDArray[np.float32] = (means / np.linalg.norm(means, axis=1, keepdims=True)).astype(np.float32)
        return unit


def make_spec(identifier: str) -> EmbedderSpec:
    """A registered embedder's description, made to fit `ColourEmbedder`."""
    known = find_spec("dlib-resnet29")
    return replace(known, id=identifier, size=32, dimension=3, threshold=0.95, margin=0.01)


async def eventually(holds: Callable[[], object], *, within: float = 5.0) -> None:
    """Wait until `holds` is true; the test fails after `within` seconds."""
    async with asyncio.timeout(within):
        while not holds():  # noqa: ASYNC110 - any condition, also of code that sets no event
            await asyncio.sleep(0.002)
