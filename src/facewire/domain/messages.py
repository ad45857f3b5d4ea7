"""The wire format: Frame -> DetectedFaces -> RecognizedFaces, JSON in UTF-8. Nothing else writes or reads it.

Pixel coordinates are those of the frame with its EXIF orientation applied: origin top left, x right, y down.
Landmarks come as left eye, right eye, nose, left mouth corner, right mouth corner, as seen in the image.
"""

import base64
import binascii
import hashlib
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any, ClassVar, Literal, Self

import pydantic_core
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    model_validator,
)

from facewire.domain.errors import FacewireError, IntakeError, RecognizeError
from facewire.domain.names import check_camera, check_person, check_request_id, raw_frame_id

SCHEMA = 1
#: Faces of one frame that travel on; further ones, the smallest, are counted in `faces_dropped`.
MAX_FACES = 32
#: An SQS message holds 1 MiB (1,048,576 bytes, attributes included).
MAX_MESSAGE_BYTES = 1_000_000
#: An encoded frame, as bytes. Amazon API Gateway's limit on a payload is the same.
MAX_FRAME_BYTES = 10 * 1024 * 1024

#: Between a frame's JSON and its image; JSON holds no such byte.
END_OF_JSON = b"\0"

_IMAGE_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG", b"RIFF")

Status = Literal["pending", "done", "failed"]
Source = Literal["edge", "cloud"]
Reason = Literal["below_threshold", "ambiguous", "low_quality", "empty_gallery", "forgotten"]
Point = tuple[float, float]
Box = tuple[float, float, float, float]
Landmarks = tuple[Point, Point, Point, Point, Point]

NO_FACE = "No-Face"
UNKNOWN = "Unknown"
FAILED = "Failed"


def now() -> datetime:
    """Return the present moment in UTC."""
    return datetime.now(UTC)


def sha256(data: bytes) -> str:
    """Return the SHA-256 of `data` as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def _decode_base64(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return binascii.a2b_base64(value, strict_mode=True)
    except ValueError:
        return _decode_wrapped_base64(value)


def _decode_wrapped_base64(value: str) -> bytes:
    """Decode base64 in lines, as MIME and `base64.encodebytes` write it."""
    try:
        return binascii.a2b_base64("".join(value.split()), strict_mode=True)
    except ValueError as error:
        message = f"is not valid base64: {error}"
        raise ValueError(message) from error


def _encode_base64(value: bytes) -> str:
    return base64.b64encode(value).decode("ascii")


Base64 = Annotated[bytes, BeforeValidator(_decode_base64), PlainSerializer(_encode_base64, return_type=str)]
RequestId = Annotated[str, AfterValidator(check_request_id)]
Camera = Annotated[str, AfterValidator(check_camera)]
Person = Annotated[str, AfterValidator(check_person)]


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)

    unreadable: ClassVar[Callable[[str], FacewireError]] = partial(RecognizeError, "bad_message")

    @classmethod
    def from_bytes(cls, body: bytes) -> Self:
        """Return the message in `body`; the error of the stage that reads it where there is none."""
        try:
            return cls.model_validate_json(body)
        except ValidationError as error:
            raise cls.unreadable(explain(error)) from error

    def to_bytes(self) -> bytes:
        """Return the message as JSON in UTF-8."""
        return self.model_dump_json(by_alias=True).encode()


class Frame(_Message):
    """One encoded image with what the intake knows of it; what a sender may say is `FramePayload`.

    Between our own services it travels as JSON, a zero byte and the image itself: base64 would cost a third more.
    """

    unreadable = partial(IntakeError, "bad_request")

    request_id: RequestId
    filename: str = ""
    content: Base64
    content_sha256: str
    camera: Camera | None = None
    captured_at: AwareDatetime | None = None
    received_at: AwareDatetime = Field(default_factory=now)
    enroll_as: Person | None = None
    #: The gateway's alone to give: `enroll_proof.py`.
    enroll_proof: str | None = None

    @classmethod
    def from_bytes(cls, body: bytes) -> Self:
        """Return the frame in `body`, whether the image follows the JSON or is in it; IntakeError for anything else."""
        fields, zero, content = body.partition(END_OF_JSON)
        if not zero:
            return super().from_bytes(body)
        try:
            return cls.model_validate({**_as_object(fields), "content": content})
        except ValidationError as error:
            raise cls.unreadable(explain(error)) from error

    def to_bytes(self) -> bytes:
        """Return JSON with all fields but `content`, and then the image."""
        return self._head() + self.content

    @property
    def size(self) -> int:
        """How many bytes `to_bytes` returns, told without a copy of the image."""
        return len(self._head()) + len(self.content)

    def _head(self) -> bytes:
        return self.model_dump_json(exclude={"content"}).encode() + END_OF_JSON

    @classmethod
    def of(cls, content: bytes, *, request_id: str, **fields: Any) -> Self:
        """Return the frame of `content`, an encoded image of at most 10 MiB; IntakeError says what is wrong."""
        if not content:
            raise IntakeError("empty_body", "the image is empty: send the bytes of a JPEG, PNG or WebP picture")
        if len(content) > MAX_FRAME_BYTES:
            detail = f"the image has {len(content):,} bytes, at most {MAX_FRAME_BYTES:,} are taken: send it smaller"
            raise IntakeError("too_large", detail)
        try:
            return cls(request_id=request_id, content=content, content_sha256=sha256(content), **fields)
        except ValidationError as error:
            raise IntakeError("bad_request", explain(error)) from error


class FramePayload(_Message):
    """What a sender says of a frame in JSON. `encoded` is taken for `content`; fields beyond these are ignored."""

    unreadable = partial(IntakeError, "bad_request")

    request_id: RequestId
    filename: str = Field(default="", max_length=255)
    content: Base64
    captured_at: AwareDatetime | None = None
    enroll_as: Person | None = None

    @model_validator(mode="before")
    @classmethod
    def _take_encoded(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("content") is None and "encoded" in values:
            return {**values, "content": values["encoded"]}
        return values


def parse_frame(payload: bytes, *, camera: str, enrolling: bool = False) -> Frame:
    """Return the frame in an MQTT payload: JSON, or an image whose id becomes the UUID5 of camera and content.

    `enroll_as` is taken only where `enrolling`; anywhere else it is refused. IntakeError says what is wrong.
    """
    if not payload or payload.startswith(_IMAGE_SIGNATURES):
        return Frame.of(payload, request_id=raw_frame_id(camera, sha256(payload)), camera=camera)
    sent = FramePayload.from_bytes(payload)
    if sent.enroll_as is not None and not enrolling:
        detail = "enroll_as is not taken on this topic: enrol over POST /v1/people/{person}/faces"
        raise IntakeError("enroll_refused", detail)
    return Frame.of(
        sent.content,
        request_id=sent.request_id,
        filename=sent.filename,
        camera=camera,
        captured_at=sent.captured_at,
        enroll_as=sent.enroll_as,
    )


class FrameInfo(_Message):
    """Size of the decoded frame in pixels and of the encoded one in bytes."""

    width: int
    height: int
    bytes: int


class FaceQuality(_Message):
    """What makes a face fit or unfit to be recognised; measures are defined in `vision/quality.py`."""

    size: float
    sharpness: float
    brightness: float
    yaw: float
    pitch: float
    roll: float


class FaceCrop(_Message):
    """The part of the frame around one face as JPEG, with the landmarks in the crop's own pixel coordinates.

    `landmarks` is absent only in the single-face messages of earlier deployments. `box` is the face's box in the crop's
    pixel coordinates; it is kept with enrolled faces, so that another embedder can align them again.
    """

    jpeg: Base64
    landmarks: Landmarks | None
    box: Box | None = None


class DetectedFace(_Message):
    """One face: where it is in the frame, how sure the detector is (0 to 1), its crop and its quality."""

    index: int
    box: Box
    landmarks: Landmarks | None
    confidence: float
    crop: FaceCrop
    quality: FaceQuality | None = None


class DetectedFaces(_Message):
    """What the detector found in one frame: faces sorted by area, largest first, at most 32."""

    version: int = Field(default=SCHEMA, alias="schema")
    request_id: RequestId
    filename: str = ""
    camera: str | None = None
    captured_at: AwareDatetime | None = None
    received_at: AwareDatetime = Field(default_factory=now)
    sent_at: AwareDatetime = Field(default_factory=now)
    enroll_as: Person | None = None
    enroll_proof: str | None = None
    content_sha256: str = ""
    frame: FrameInfo | None = None
    detector: str = "mtcnn"
    faces_dropped: int = 0
    faces: tuple[DetectedFace, ...] = ()
    timings_ms: dict[str, float] = {}

    @model_validator(mode="before")
    @classmethod
    def _take_single_face(cls, values: Any) -> Any:
        """Read `{"request_id", "filename", "face_image"}`, the message of earlier deployments."""
        if not isinstance(values, dict) or "face_image" not in values or "faces" in values:
            return values
        crop = {"jpeg": values["face_image"], "landmarks": None}
        face = {"index": 0, "box": (0, 0, 0, 0), "landmarks": None, "confidence": 1.0, "crop": crop}
        return {**values, "faces": [face]}


class RunnerUp(_Message):
    """An enrolled person and the cosine similarity to the nearest of her or his faces."""

    person: str
    similarity: float


class Emotions(_Message):
    """How probable each facial expression is, from 0 to 1; together 1. What somebody feels is another matter."""

    neutral: float
    happy: float
    sad: float
    angry: float
    fearful: float
    disgusted: float
    surprised: float


class FaceAttributes(_Message):
    """What a network guesses from a face's look: `age` in years, `gender_confidence` from 0.5 to 1.

    docs/attributes.md says how often it errs.
    """

    emotions: Emotions
    age: float
    gender: Literal["female", "male"]
    gender_confidence: float


def _is_absent(value: FaceAttributes | None) -> bool:
    return value is None


class RecognizedFace(_Message):
    """One face and who it is: `similarity` is the cosine to the nearest person, `reason` says why it is unknown.

    `person` is null unless the face is `known`. For an unknown face `nearest` says whom it came closest to, which is
    no statement about who it is. `runner_up` is the second nearest person in either case. `attributes` are there only
    if the recognizer was told to guess them.
    """

    index: int
    person: str | None
    known: bool
    similarity: float | None
    runner_up: RunnerUp | None = None
    nearest: RunnerUp | None = None
    reason: Reason | None = None
    box: Box
    landmarks: Landmarks | None
    confidence: float
    quality: FaceQuality | None = None
    attributes: FaceAttributes | None = Field(default=None, exclude_if=_is_absent)


class Enrolled(_Message):
    """The outcome of an enrolment: the new face, or why it was refused; `looks_like` warns of another person."""

    person: str
    face_id: str | None = None
    refused: tuple[str, ...] = ()
    looks_like: RunnerUp | None = None


class Failure(_Message):
    """The stage where a frame broke, a code for programs and a detail for people."""

    stage: str
    code: str
    detail: str

    @classmethod
    def of(cls, error: FacewireError) -> Self:
        """Return what devices and clients are told of an error: its public text."""
        return cls(stage=error.stage, code=error.code, detail=error.public)


class RecognizedFaces(_Message):
    """The answer to one request; `result` is what a simple device reads."""

    version: int = Field(default=SCHEMA, alias="schema")
    request_id: RequestId
    filename: str = ""
    status: Literal["done", "failed"] = "done"
    result: str
    camera: str | None = None
    source: Source = "cloud"
    captured_at: AwareDatetime | None = None
    received_at: AwareDatetime = Field(default_factory=now)
    answered_at: AwareDatetime = Field(default_factory=now)
    embedder: str | None = None
    gallery_version: int | None = None
    content_sha256: str = ""
    frame: FrameInfo | None = None
    faces_dropped: int = 0
    faces: tuple[RecognizedFace, ...] = ()
    enrolled: Enrolled | None = None
    error: Failure | None = None
    timings_ms: dict[str, float] = {}

    @property
    def rank(self) -> int:
        """How good the answer is: 3 done in the cloud, 2 done at the edge, 1 failed; a store keeps the highest."""
        if self.status == "failed":
            return 1
        return 3 if self.source == "cloud" else 2


def failed(request: Frame | DetectedFaces, error: FacewireError, *, source: Source) -> RecognizedFaces:
    """Return the answer to `request` that says where and why it failed."""
    return RecognizedFaces(
        request_id=request.request_id,
        filename=request.filename,
        status="failed",
        result=FAILED,
        camera=request.camera,
        source=source,
        captured_at=request.captured_at,
        received_at=request.received_at,
        content_sha256=request.content_sha256,
        error=Failure.of(error),
    )


def no_face(request: DetectedFaces) -> RecognizedFaces:
    """Return the answer to a frame without a face; an enrolment is refused for it."""
    person = request.enroll_as
    return RecognizedFaces(
        request_id=request.request_id,
        filename=request.filename,
        result=NO_FACE,
        camera=request.camera,
        source="edge",
        captured_at=request.captured_at,
        received_at=request.received_at,
        content_sha256=request.content_sha256,
        frame=request.frame,
        enrolled=None if person is None else Enrolled(person=person, refused=("no_face",)),
        timings_ms=request.timings_ms,
    )


def _as_object(fields: bytes) -> dict[str, Any]:
    try:
        said = pydantic_core.from_json(fields)
    except ValueError as error:
        raise IntakeError("bad_request", f"what comes before the image is not JSON: {error}") from error
    if not isinstance(said, dict):
        raise IntakeError("bad_request", "what comes before the image is not a JSON object")
    return said


def explain(error: ValidationError) -> str:
    """Return what pydantic found, one clause a field, without the values themselves."""
    clauses = []
    for fault in error.errors(include_url=False, include_context=False, include_input=False):
        field = ".".join(str(part) for part in fault["loc"]) or "the body"
        clauses.append(f"{field}: {fault['msg'].removeprefix('Value error, ')}")
    return "; ".join(clauses)
