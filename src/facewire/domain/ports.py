"""What is kept of results and of enrolled people, whatever keeps it: SQLite or DynamoDB."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol, runtime_checkable

from facewire.domain.errors import QueueError
from facewire.domain.messages import FaceCrop, Frame, RecognizedFaces, Status


@dataclass(frozen=True, slots=True)
class Result:
    """What the store knows of one request. `answer` is None while it is pending and once it has expired."""

    request_id: str
    status: Status | Literal["expired"]
    camera: str | None
    content_sha256: str
    received_at: datetime
    answer: RecognizedFaces | None


@dataclass(frozen=True, slots=True)
class ResultQuery:
    """Which results a page of the history shows; `None` means any. Times are inclusive, newest first."""

    camera: str | None = None
    person: str | None = None
    status: Status | None = None
    since: datetime | None = None
    until: datetime | None = None
    limit: int = 50
    cursor: str | None = None


@dataclass(frozen=True, slots=True)
class ResultPage:
    """A page of the history; `cursor` leads to the next one, None after the last.

    Before the last, too, a page may hold fewer results than were asked for, even none. What was written in the last
    second may be missing where an index lags behind, as in DynamoDB; what was changed or deleted is never shown.
    """

    results: Sequence[Result]
    cursor: str | None


class ResultStore(Protocol):
    """Answers by request id. Writes are idempotent; the better answer stays (`RecognizedFaces.rank`)."""

    async def expect(self, frame: Frame) -> None:
        """Note that `frame` was accepted: its request is pending unless something better is known."""

    async def keep(self, answers: Sequence[RecognizedFaces]) -> list[RecognizedFaces]:
        """Keep each answer that is better than what is there; return those that were kept."""

    async def get(self, request_id: str) -> Result | None:
        """Return what is known of the request, None if it was never seen."""

    async def page(self, query: ResultQuery) -> ResultPage:
        """Return the newest results that fit, a page at a time. StoreError `bad_cursor` for a cursor of nobody's."""

    async def overdue(self, before: datetime, limit: int) -> list[Result]:
        """Return requests still pending that were received before that moment."""

    async def expire(self, before: datetime, *, forget_before: datetime) -> int:
        """Turn what was received before the first moment into tombstones, drop tombstones before the second.

        Where results expire by themselves there is nothing to do, and no tombstone: DynamoDB has TTLs.
        """

    async def forget_person(self, person: str, *, gallery_version: int) -> int:
        """Take the name out of every answer that holds it; return how many answers that were.

        Answers still to come lose it as well if they were made with a gallery older than `gallery_version`.
        """


@dataclass(frozen=True, slots=True)
class EnrolledFace:
    """One face of a person. `embedding` is the unit-length vector of `embedder`: d little-endian float32 values.

    `enrolled_at` is when the request to enrol it was received, however often and late it is carried out. `crop` is the
    unaligned enrolment crop with its landmarks; imported embeddings have none.
    """

    face_id: str
    person: str
    embedder: str
    embedding: bytes
    enrolled_at: datetime
    crop: FaceCrop | None


@dataclass(frozen=True, slots=True)
class PersonSummary:
    """A person and the ids of her or his faces, oldest first."""

    person: str
    face_ids: tuple[str, ...]
    enrolled_at: datetime


class GalleryStore(Protocol):
    """Enrolled faces. Every change raises `version` by at least one.

    For a day a deletion also stands against what was asked for before it: see `add`.
    """

    async def version(self) -> int:
        """Return the number of the latest change."""

    async def add(self, faces: Sequence[EnrolledFace]) -> int:
        """Keep the faces (a known face id is left as it is) and return the version.

        GalleryError `deleted` where a face, or its person, was deleted after its `enrolled_at`: none is kept.
        """

    async def add_embeddings(self, faces: Sequence[EnrolledFace]) -> int:
        """Keep the embeddings of those faces that are there and of that person; return how many were new.

        Unlike `add` it never brings back a face that was deleted while its crop was embedded anew.
        """

    async def faces(self, embedder: str | None = None) -> tuple[int, list[EnrolledFace]]:
        """Return the version and all faces, or those of one embedder, crops left out."""

    async def crops(self) -> list[EnrolledFace]:
        """Return all faces that have a crop, with it: what a change of embedder embeds again."""

    async def people(self) -> list[PersonSummary]:
        """Return everybody enrolled, by name."""

    async def person(self, person: str) -> PersonSummary | None:
        """Return one person, None where no face of hers or his is enrolled."""

    async def delete_face(self, person: str, face_id: str) -> bool:
        """Delete one face and everything kept of it; False if there was none.

        The same request, carried out once more, does not bring it back.
        """

    async def delete_person(self, person: str) -> int:
        """Delete everything kept of a person; return how many faces that were.

        Enrolments still to come of what was asked for before do not bring the person back.
        """


#: A message is received this often before it counts as poison.
MAX_RECEIVES = 5


@dataclass(frozen=True, slots=True)
class Lease:
    """A message on loan: nobody else receives it until the lease ends.

    `receipt` names this very loan, `receives` counts the loans so far, this one included.
    """

    receipt: str
    body: bytes
    receives: int


class PartialError(QueueError):
    """A call was done for part of what it was given: `left` may be tried again, `refused` would be refused again.

    Both are positions in the sequence that was given; everything else is done.
    """

    def __init__(self, code: str, detail: str, *, left: Sequence[int], refused: Sequence[int]) -> None:
        super().__init__(code, detail)
        self.left = left
        self.refused = refused


class Sender(Protocol):
    """What takes messages; QueueError where it cannot take them now, PartialError where it took some."""

    async def send(self, bodies: Sequence[bytes]) -> None:
        """Keep each of `bodies` (at most 1,000,000 bytes each) durably before returning."""


class Queue(Sender, Protocol):
    """Messages that stay until acknowledged. Every call raises QueueError where the queue cannot answer."""

    async def receive(self, limit: int, *, wait: float) -> list[Lease]:
        """Return up to `limit` messages, oldest first, waiting up to `wait` seconds for the first."""

    async def extend(self, leases: Sequence[Lease], seconds: float) -> None:
        """Make the leases end `seconds` from now. A lease that has already ended is passed over."""

    async def acknowledge(self, leases: Sequence[Lease]) -> None:
        """Delete the messages. A lease that has already ended is passed over."""

    async def release(self, leases: Sequence[Lease], *, delay: float = 0, count_attempt: bool = True) -> None:
        """Let others receive the messages again, `delay` seconds from now.

        Without `count_attempt` the receive does not count: no attempt was made. A queue whose count cannot be turned
        back, as that of SQS, passes over it.
        """

    async def dead_letter(self, lease: Lease, reason: str) -> None:
        """Move the message to the dead letters, with the reason."""


@runtime_checkable
class AtomicQueue(Queue, Protocol):
    """A queue that can send to others and acknowledge in one step."""

    def commits_with(self, queue: Sender) -> bool:
        """Return whether `hand_on` may send to `queue`."""

    async def hand_on(self, leases: Sequence[Lease], sends: Sequence[tuple[Sender, Sequence[bytes]]]) -> None:
        """Send each queue's bodies and acknowledge `leases`, all or nothing."""
