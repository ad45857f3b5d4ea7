"""What the DynamoDB table holds of a request: its row, and beside it an item for each face of the answer."""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal, Self

from facewire.adapters.aws.dynamodb.items import TTL, Item, Key, Write, ttl
from facewire.domain.answers import mentioned_people, recognized_people
from facewire.domain.archive import ProcessedFrame
from facewire.domain.errors import StoreError
from facewire.domain.lifecycle import EXPIRED, EXPIRED_RANK
from facewire.domain.messages import FAILED, MAX_FACES, Failure, Frame, RecognizedFaces, Status
from facewire.domain.names import MAX_CAMERA, MAX_PERSON
from facewire.domain.ports import Result

#: DynamoDB takes items of up to 400 KB; the rest is for the other attributes. 32 faces take 8 to 29 KB.
MAX_ANSWER_BYTES = 390_000
#: Keys over which the requests of one status are spread in the index: each takes 1,000 writes a second. More may be
#: added, none taken away.
_SHARDS = 4

_FRAME = "frame"
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


def states(status: str) -> list[str]:
    """Return the keys of the index under which requests of that status are; the first is of the version before."""
    return [status, *(f"{status}#{shard}" for shard in range(_SHARDS))]


@dataclass(frozen=True, slots=True)
class Row:
    """What is kept under a request id. `body` is the answer as compressed JSON, `faces` counts the items beside it."""

    request_id: str
    status: Status | Literal["expired"]
    rank: int
    content_sha256: str
    received_at: datetime
    camera: str | None
    body: bytes | None
    faces: int = 0

    @classmethod
    def pending(cls, frame: Frame) -> Self:
        """Return the row of a request that has no answer yet."""
        received = _utc(frame.received_at)
        return cls(frame.request_id, "pending", 0, frame.content_sha256, received, frame.camera, None)

    @classmethod
    def answered(cls, answer: RecognizedFaces) -> Self:
        """Return the row of an answer, as one to a request that nobody has announced.

        StoreError `answer_too_large` where it does not fit into an item.
        """
        received, body = _utc(answer.received_at), compressed(answer)
        camera = answer.camera if answer.camera and len(answer.camera) <= MAX_CAMERA else None
        return cls(answer.request_id, answer.status, answer.rank, answer.content_sha256, received, camera, body)

    @classmethod
    def of(cls, item: Item) -> Self:
        """Return the row in an item."""
        received, request_id = read_moment(item["moment"])
        optional = item.get("content_sha256", ""), received, item.get("camera"), item.get("answer")
        return cls(request_id, item["status"], item["rank"], *optional, item.get("faces", 0))

    def as_of(self, since: datetime | None) -> "Row":
        """Return the row as it counts: without its answer if it was received before that."""
        if self.status != EXPIRED and (since is None or self.received_at >= since):
            return self
        return replace(self, status="expired", rank=EXPIRED_RANK, camera=None, body=None)

    def in_place_of(self, other: "Row") -> "Row":
        """Return this row as the answer to the request of the other one."""
        received, camera = other.received_at, other.camera or self.camera
        content = other.content_sha256 or self.content_sha256
        return replace(self, received_at=received, camera=camera, content_sha256=content)

    @property
    def moment(self) -> str:
        """What requests are sorted by."""
        return moment_of(self.received_at, self.request_id)

    @property
    def answer(self) -> RecognizedFaces | None:
        """The answer, None while it is pending and once it has expired."""
        return None if self.body is None else RecognizedFaces.from_bytes(zlib.decompress(self.body))

    @property
    def result(self) -> Result:
        """The row as the stores give it out."""
        return Result(self.request_id, self.status, self.camera, self.content_sha256, self.received_at, self.answer)

    def writes(self, there: "Row | None", expires_at: datetime | None) -> list[Write]:
        """Return what puts row and faces in the place of `there`, as long as that is unchanged, until they expire."""
        expiry = None if expires_at is None else ttl(expires_at)
        answer = self.answer
        faces = [] if answer is None else [{**face, TTL: expiry} for face in self._face_items(answer)]
        item = {
            **frame_key(self.request_id)._asdict(),
            "status": self.status,
            "rank": self.rank,
            "content_sha256": self.content_sha256 or None,
            "moment": self.moment,
            "camera": self.camera,
            "state": states(self.status)[1 + zlib.crc32(self.request_id.encode()) % _SHARDS],
            "answer": self.body,
            "people": None if answer is None else sorted(mentioned_people(answer)),
            "faces": len(faces),
            TTL: expiry,
        }
        surplus = range(len(faces), 0 if there is None else there.faces)
        return [
            _put(item, there),
            *(Write.put(face) for face in faces),
            *(Write.delete(_face_key(self.request_id, number)) for number in surplus),
        ]

    def _face_items(self, answer: RecognizedFaces) -> Iterator[dict[str, Any]]:
        """Yield the faces as the archive in S3 has them, and the one that is enrolled; by person where one is known."""
        recognized = {person for person in recognized_people(answer) if 1 <= len(person) <= MAX_PERSON}
        shown = ProcessedFrame.of(answer.model_copy(update={"received_at": self.received_at}))
        faces = [face.model_dump() for face in shown.faces[:MAX_FACES]]
        if answer.enrolled is not None and answer.enrolled.face_id is not None:
            enrolled = {"person": answer.enrolled.person, "face_id": answer.enrolled.face_id}
            faces.append({"image_id": self.request_id, "timestamp": shown.timestamp, **enrolled})
        for number, face in enumerate(faces):
            person = face["person"] if face["person"] in recognized else None
            key = _face_key(self.request_id, number)._asdict()
            yield {**face, **key, "person": person, "camera": self.camera, "seen": self.moment}


def compressed(answer: RecognizedFaces) -> bytes:
    """Return the answer as an attribute of its row; StoreError `answer_too_large` where it does not fit."""
    body = zlib.compress(answer.to_bytes())
    size = len(body) + len(answer.content_sha256) + sum(len(name.encode()) for name in mentioned_people(answer))
    if size > MAX_ANSWER_BYTES:
        detail = f"the answer has {size:,} bytes compressed, DynamoDB takes {MAX_ANSWER_BYTES:,}"
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
            camera=answer.camera if len(answer.camera or "") <= MAX_CAMERA else None,
            received_at=answer.received_at,
            content_sha256=answer.content_sha256[:_SHA256_DIGITS],
            error=Failure.of(error),
        )
        return failure, Row.answered(failure)


def _put(item: Item, there: Row | None) -> Write:
    """Put the item in the place of that row if it is unchanged."""
    if there is None:
        return Write.put(item, condition="attribute_not_exists(#pk)")
    same = "#moment = :moment AND #rank = :rank AND "
    values = {"moment": there.moment, "rank": there.rank}
    if there.body is None:
        return Write.put(item, condition=same + "attribute_not_exists(#answer)", values=values)
    return Write.put(item, condition=same + "#answer = :answer", values={**values, "answer": there.body})


def _face_key(request_id: str, number: int) -> Key:
    return Key(request_id, f"face#{number}")


def _utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError:  # the first or last hours of the calendar, in another time zone
        return _EARLIEST if moment.year == _EARLIEST.year else _LATEST
