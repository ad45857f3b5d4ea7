"""What the DynamoDB table holds of a request: one row, and an entry for each person its answer names."""

import secrets
import zlib
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Literal, Self

from facewire.adapters.aws.dynamodb.items import Item, Key
from facewire.adapters.aws.dynamodb.schema import TTL
from facewire.domain.answers import mentioned_people, recognized_people
from facewire.domain.errors import StoreError
from facewire.domain.lifecycle import EXPIRED, Known
from facewire.domain.messages import FAILED, Failure, Frame, RecognizedFaces, Status, sha256
from facewire.domain.names import MAX_CAMERA
from facewire.domain.ports import Result

#: DynamoDB takes items of up to 400 KB; the rest is for the other attributes. 32 faces take 8 to 29 KB.
MAX_ANSWER_BYTES = 390_000
#: Before every moment, and after every one.
FIRST, LAST = "0", "~"

_FRAME = "frame"
#: Ends the request id in an entry; smaller than any character an id may hold, so that entries sort as moments do.
_END = "\x1f"
_ISO_LENGTH = len("2026-11-22T12:00:00.123456+00:00")
_SHA256_DIGITS = 64
_EARLIEST = datetime.min.replace(tzinfo=UTC)
_LATEST = datetime.max.replace(tzinfo=UTC)


def iso(moment: datetime) -> str:
    """Return the moment in UTC, in the one length that sorts as time does."""
    return _utc(moment).isoformat(timespec="microseconds")


def moment_of(received_at: datetime, request_id: str) -> str:
    """Return what requests are sorted by: when the frame was received, then the id."""
    return f"{iso(received_at)}#{request_id}"


def read_moment(moment: str) -> tuple[datetime, str]:
    """Return the time and the request id that `moment_of` was given."""
    return datetime.fromisoformat(moment[:_ISO_LENGTH]), moment[_ISO_LENGTH + 1 :]


def frame_key(request_id: str) -> Key:
    """Return the key of the row."""
    return Key(request_id, _FRAME)


def person_partition(person: str, *, recognized: bool) -> str:
    """Return the partition of the entries for answers that recognise the person, or of those that only name her."""
    return f"{'person' if recognized else 'mention'}#{sha256(person.encode())}"


@dataclass(frozen=True, slots=True)
class Entry:
    """One place in an index: newest first by `moment`. `token` is that of the row it stands for, if it holds one."""

    moment: str
    request_id: str
    token: str | None = None

    @classmethod
    def of_index(cls, item: Item) -> Self:
        """Return the entry in an index of the table."""
        return cls(item["moment"], item["pk"])

    @classmethod
    def of_person(cls, item: Item) -> Self:
        """Return the entry in the partition of a person."""
        moment, _, token = item["sk"].rpartition(_END)
        return cls(moment, read_moment(moment)[1], token)

    def stands_for(self, row: "Row") -> bool:
        """Tell whether the row is still the one that the entry was made for."""
        return self.moment == row.moment and self.token in {None, row.token}


@dataclass(frozen=True, slots=True)
class Row:
    """What is kept under a request id. `token` is another one whenever another request or answer takes the place.

    `body` is the answer as compressed JSON.
    """

    request_id: str
    status: Status | Literal["expired"]
    rank: int
    content_sha256: str
    received_at: datetime
    camera: str | None
    body: bytes | None
    token: str

    @classmethod
    def pending(cls, frame: Frame) -> Self:
        """Return the row of a request that has no answer yet."""
        received = _utc(frame.received_at)
        return cls(frame.request_id, "pending", 0, frame.content_sha256, received, frame.camera, None, new_token())

    @classmethod
    def answered(cls, answer: RecognizedFaces) -> Self:
        """Return the row of an answer, as one to a request that nobody has announced.

        StoreError `answer_too_large` where it does not fit into an item.
        """
        return cls(
            answer.request_id,
            answer.status,
            answer.rank,
            answer.content_sha256,
            _utc(answer.received_at),
            _camera_of(answer),
            compressed(answer),
            new_token(),
        )

    @classmethod
    def of(cls, item: Item) -> Self:
        """Return the row in an item."""
        received, request_id = read_moment(item["moment"])
        return cls(
            request_id,
            item["status"],
            item["rank"],
            item.get("content_sha256", ""),
            received,
            item.get("camera"),
            item.get("answer"),
            item["token"],
        )

    def item(self, expires_at: int | None) -> Item:
        """Return the item to be kept until then; only what has an attribute is in its index."""
        return {
            **frame_key(self.request_id)._asdict(),
            "status": self.status,
            "rank": self.rank,
            "content_sha256": self.content_sha256 or None,
            "moment": self.moment,
            "day": self.day,
            "camera": self.camera,
            "state": None if self.status == "done" else self.status,
            "answer": self.body,
            "token": self.token,
            TTL: expires_at,
        }

    def in_place_of(self, other: "Row") -> "Row":
        """Return this row as the answer to the request of the other one."""
        return replace(
            self,
            received_at=other.received_at,
            camera=other.camera or self.camera,
            content_sha256=other.content_sha256 or self.content_sha256,
        )

    @property
    def moment(self) -> str:
        """What requests are sorted by."""
        return moment_of(self.received_at, self.request_id)

    @property
    def day(self) -> str:
        """The day, in UTC, when the frame was received."""
        return self.moment[: len("2026-11-22")]

    @property
    def known(self) -> Known:
        """What the rules for request ids need."""
        answer = self.answer
        gallery_version = None if answer is None else answer.gallery_version
        return Known(self.status, self.rank, self.content_sha256, self.received_at, gallery_version)

    @property
    def answer(self) -> RecognizedFaces | None:
        """The answer, None while it is pending and once it has expired."""
        return None if self.body is None else RecognizedFaces.from_bytes(zlib.decompress(self.body))

    @property
    def result(self) -> Result:
        """The row as the stores give it out."""
        camera = None if self.status == EXPIRED else self.camera
        return Result(self.request_id, self.status, camera, self.content_sha256, self.received_at, self.answer)

    def entries(self, answer: RecognizedFaces | None) -> set[Key]:
        """Return the keys of the entries under which `answer`, that of the row, is found by person."""
        if answer is None:
            return set()
        recognized = recognized_people(answer)
        place = f"{self.moment}{_END}{self.token}"
        people = mentioned_people(answer)
        return {Key(person_partition(person, recognized=person in recognized), place) for person in people}


def compressed(answer: RecognizedFaces) -> bytes:
    """Return the answer as an attribute of its row; StoreError `answer_too_large` where it does not fit."""
    body = zlib.compress(answer.to_bytes())
    if len(body) + len(answer.content_sha256) > MAX_ANSWER_BYTES:
        detail = f"the answer has {len(body):,} bytes compressed, DynamoDB takes {MAX_ANSWER_BYTES:,}"
        raise StoreError("answer_too_large", detail)
    return body


def fitting(answer: RecognizedFaces) -> tuple[RecognizedFaces, Row]:
    """Return the answer and its row; in place of one that does not fit into an item the failure that says so."""
    try:
        return answer, Row.answered(answer)
    except StoreError as error:
        failure = RecognizedFaces(
            request_id=answer.request_id,
            status="failed",
            result=FAILED,
            camera=_camera_of(answer),
            received_at=answer.received_at,
            content_sha256=answer.content_sha256[:_SHA256_DIGITS],
            error=Failure.of(error),
        )
        return failure, Row.answered(failure)


def _camera_of(answer: RecognizedFaces) -> str | None:
    """Return the camera if it can be in an index; one that no intake takes cannot."""
    return answer.camera if answer.camera and len(answer.camera) <= MAX_CAMERA else None


def _utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError:  # the first or last hours of the calendar, in another time zone
        return _EARLIEST if moment.year == _EARLIEST.year else _LATEST


def new_token() -> str:
    """Return a token that no other row has."""
    return secrets.token_hex(6)
