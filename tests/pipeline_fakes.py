"""Hand-written stand-ins for what the stages stand on: queues, the gallery store, the embedder."""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from facewire.domain.enrolment import proof_of
from facewire.domain.errors import FacewireError, QueueError
from facewire.domain.messages import DetectedFaces, Frame
from facewire.domain.ports import EnrolledFace, Lease, PartialError, PersonSummary
from facewire.vision.embedder import EmbedderSpec
from facewire.vision.models import find_spec

Request = TypeVar("Request", Frame, DetectedFaces)
ENROLL_KEY = b"the key of the gateway and the recognizer alone"


def proven(request: Request) -> Request:
    """Return the enrolment with the proof that a gateway gives it."""
    return request.model_copy(update={"enroll_proof": proof_of(ENROLL_KEY, request)})


@dataclass
class _Stored:
    number: int
    body: bytes
    receives: int = 0
    receipt: str | None = None
    lease_end: float = 0.0


class MemoryQueue:
    """A queue in memory that notes every call and fails those it is told to; delays are noted, not waited for."""

    def __init__(self, *bodies: bytes, lease_seconds: float = 30.0) -> None:
        self.lease_seconds = lease_seconds
        self.calls: list[tuple[str, int]] = []
        self.returned: list[tuple[bytes, float]] = []
        self.dead_lettered: list[tuple[bytes, str]] = []
        self.failures: Counter[str] = Counter()
        self.received = 0
        self._stored: list[_Stored] = []
        self._numbers = 0
        self._changed = asyncio.Condition()
        self.preload(*bodies)

    def preload(self, *bodies: bytes, receives: int = 0) -> None:
        for body in bodies:
            self._numbers += 1
            self._stored.append(_Stored(self._numbers, body, receives))

    @property
    def bodies(self) -> list[bytes]:
        return [stored.body for stored in self._stored]

    @property
    def leased(self) -> list[bytes]:
        return [stored.body for stored in self._stored if stored.receipt is not None]

    @property
    def receives(self) -> list[int]:
        return [stored.receives for stored in self._stored]

    async def send(self, bodies: Sequence[bytes]) -> None:
        self._call("send", len(bodies))
        self.preload(*bodies)
        await self._announce()

    async def receive(self, limit: int, *, wait: float) -> list[Lease]:
        self._call("receive", limit)
        async with self._changed:
            try:
                async with asyncio.timeout(wait):
                    await self._changed.wait_for(self._free)
            except TimeoutError:
                return []
            return [self._lend(stored) for stored in self._free()[:limit]]

    async def extend(self, leases: Sequence[Lease], seconds: float) -> None:
        self._call("extend", len(leases))
        for stored in self._of(leases):
            stored.lease_end = asyncio.get_running_loop().time() + seconds

    async def acknowledge(self, leases: Sequence[Lease]) -> None:
        self._call("acknowledge", len(leases))
        for stored in self._of(leases):
            self._stored.remove(stored)
        await self._announce()

    async def release(self, leases: Sequence[Lease], *, delay: float = 0, count_attempt: bool = True) -> None:
        self._call("release", len(leases))
        for stored in self._of(leases):
            stored.receives -= not count_attempt
            self.returned.append((stored.body, delay))
            stored.receipt = None
        await self._announce()

    async def dead_letter(self, lease: Lease, reason: str) -> None:
        self._call("dead_letter", 1)
        for stored in self._of([lease]):
            self._stored.remove(stored)
            self.dead_lettered.append((stored.body, reason))
        await self._announce()

    def count(self, call: str) -> int:
        return sum(name == call for name, _ in self.calls)

    def _call(self, name: str, size: int) -> None:
        self.calls.append((name, size))
        if self.failures[name] > 0:
            self.failures[name] -= 1
            raise QueueError("out_of_reach", f"{name} was told to fail")

    def _free(self) -> list[_Stored]:
        now = asyncio.get_running_loop().time()
        return [stored for stored in self._stored if stored.receipt is None or stored.lease_end < now]

    def _lend(self, stored: _Stored) -> Lease:
        self.received += 1
        stored.receives += 1
        stored.receipt = f"{stored.number}:{self.received}"
        stored.lease_end = asyncio.get_running_loop().time() + self.lease_seconds
        return Lease(stored.receipt, stored.body, stored.receives)

    def _of(self, leases: Sequence[Lease]) -> list[_Stored]:
        receipts = {lease.receipt for lease in leases}
        return [stored for stored in self._stored if stored.receipt in receipts]

    async def _announce(self) -> None:
        async with self._changed:
            self._changed.notify_all()


class ChoosyQueue(MemoryQueue):
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


@dataclass
class MemoryGalleryStore:
    """A gallery store in memory; `failure`, while set, is what every call raises."""

    kept: dict[tuple[str, str], EnrolledFace] = field(default_factory=dict)
    number: int = 0
    failure: FacewireError | None = None
    added: int = 0
    refusals: int = 0

    async def version(self) -> int:
        self._check()
        return self.number

    async def add(self, faces: Sequence[EnrolledFace]) -> int:
        self._check()
        new = {(face.face_id, face.embedder): face for face in faces if (face.face_id, face.embedder) not in self.kept}
        self.kept |= new
        self.added += len(new)
        self.number += bool(new)
        return self.number

    async def add_embeddings(self, faces: Sequence[EnrolledFace]) -> int:
        self._check()
        there = {(face.face_id, face.person) for face in self.kept.values()}
        new = {(face.face_id, face.embedder): face for face in faces if (face.face_id, face.person) in there}
        count = len(new.keys() - self.kept.keys())
        self.kept = new | self.kept
        self.number += bool(count)
        return count

    async def faces(self, embedder: str | None = None) -> tuple[int, list[EnrolledFace]]:
        self._check()
        rows = [replace(face, crop=None) for face in self.kept.values() if embedder in (None, face.embedder)]
        return self.number, rows

    async def crops(self) -> list[EnrolledFace]:
        self._check()
        return [face for face in self.kept.values() if face.crop is not None]

    async def people(self) -> list[PersonSummary]:
        raise NotImplementedError

    async def person(self, person: str) -> PersonSummary | None:
        raise NotImplementedError(person)

    async def delete_face(self, person: str, face_id: str) -> bool:
        raise NotImplementedError

    async def delete_person(self, person: str) -> int:
        gone = [key for key, face in self.kept.items() if face.person == person]
        for key in gone:
            del self.kept[key]
        self.number += bool(gone)
        return len(gone)

    def _check(self) -> None:
        if self.failure is not None:
            self.refusals += 1
            raise self.failure


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
