"""Pictures in S3: which objects an event is about, and the frames they hold."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Self
from urllib.parse import unquote_plus

import structlog

from facewire.adapters.aws.errors import aws_errors_as, error_code
from facewire.domain.errors import GalleryError, IntakeError, StoreError
from facewire.domain.messages import MAX_FRAME_BYTES, Frame, now
from facewire.domain.names import check_camera, check_person, raw_frame_id
from facewire_lambda.runtime import Event

if TYPE_CHECKING:
    from types_aiobotocore_s3 import S3Client

_log = structlog.get_logger(__name__)

_LONGEST_FILENAME = 255
#: How S3 says that there is no such object; to those who may not list the bucket, as these functions, as a refusal.
_GONE = frozenset({"NoSuchKey", "404", "AccessDenied", "403"})
#: What S3 sends to try out a notification: it is about no object.
_TEST_EVENT = "s3:TestEvent"
_INPUT, _ENROLL = "input", "enroll"


@dataclass(frozen=True, slots=True)
class Place:
    """Where an object is."""

    bucket: str
    key: str

    @classmethod
    def all_of(cls, event: Event) -> "list[Place]":
        """Return the objects that the event is about; IntakeError where it is none of the three kinds that S3 knows.

        `{"bucket", "key"}` as the state machine gets it, an event of EventBridge, or a notification of the bucket,
        which alone has its keys encoded as in URLs. The event by which S3 tries out a notification is about none.
        """
        try:
            if "Event" in event and event["Event"] == _TEST_EVENT:
                return []
            if "Records" in event:
                records = [record["s3"] for record in event["Records"]]
                return [cls(record["bucket"]["name"], unquote_plus(record["object"]["key"])) for record in records]
            if "detail" in event:
                return [cls(event["detail"]["bucket"]["name"], event["detail"]["object"]["key"])]
            return [cls(event["bucket"], event["key"])]
        except (KeyError, TypeError) as error:
            detail = f"the event names no object, {error} is missing: give bucket and key"
            raise IntakeError("bad_event", detail) from error

    @property
    def parts(self) -> Sequence[str]:
        """The folders of the key, and the name at its end."""
        return self.key.split("/")

    @property
    def is_folder(self) -> bool:
        """Whether it is the empty object by which consoles show a folder."""
        return self.key.endswith("/")

    @property
    def camera(self) -> str | None:
        """The camera in `input/<camera>/…`, if that names one."""
        if len(self.parts) <= len((_INPUT, "<camera>")) or self.parts[0] != _INPUT:
            return None
        try:
            return check_camera(self.parts[1])
        except ValueError:
            return None

    @property
    def person(self) -> str:
        """The person in `enroll/<person>/<file>`; GalleryError `bad_name` where it names none."""
        if len(self.parts) <= len((_ENROLL, "<person>")) or self.parts[0] != _ENROLL:
            raise GalleryError("bad_name", f"{self.key!r} names nobody: put pictures under enroll/<person>/")
        try:
            return check_person(self.parts[1])
        except ValueError as error:
            raise GalleryError("bad_name", f"the name in {self.key!r} {error}") from error


@dataclass(frozen=True, slots=True)
class Picture:
    """What S3 says of an object: which version of its content it has, and since when.

    The request id is the UUID5 of place and version, so that a repeated event is the same request and an object that
    was put anew is another one.
    """

    place: Place
    version: str
    put_at: datetime

    @classmethod
    def unknown(cls, place: Place) -> Self:
        """Return what stands for an object of which S3 says nothing."""
        return cls(place, "", now())

    @property
    def request_id(self) -> str:
        """The id of the request that the object is."""
        return raw_frame_id(f"s3://{self.place.bucket}/{self.place.key}", self.version)

    @property
    def filename(self) -> str:
        """The last part of the key."""
        return self.place.parts[-1][:_LONGEST_FILENAME]


class Pictures:
    """Reads pictures, at most 10 MiB each, and writes results."""

    def __init__(self, client: "S3Client") -> None:
        self._client = client

    async def look(self, place: Place) -> Picture:
        """Return what S3 says of the object, without reading it; `Picture.unknown` where it is gone.

        StoreError where S3 cannot be read.
        """
        try:
            with aws_errors_as(StoreError):
                answer = await self._client.head_object(Bucket=place.bucket, Key=place.key)
        except StoreError as error:
            if not _says_gone(error):
                raise
            _log.warning("S3 says nothing of an object", bucket=place.bucket, key=place.key)
            return Picture.unknown(place)
        return Picture(place, answer["ETag"], answer["LastModified"])

    async def read(self, place: Place, *, enroll_as: str | None = None) -> Frame:
        """Return the frame in the object, received when it was put.

        IntakeError where it is gone, empty or too large; StoreError where S3 cannot be read.
        """
        content, picture = await self._get(place)
        return Frame.of(
            content,
            request_id=picture.request_id,
            filename=picture.filename,
            camera=place.camera,
            received_at=picture.put_at,
            enroll_as=enroll_as,
        )

    async def write(self, place: Place, content: bytes, content_type: str) -> None:
        """Put an object; StoreError where that fails."""
        with aws_errors_as(StoreError):
            await self._client.put_object(Bucket=place.bucket, Key=place.key, Body=content, ContentType=content_type)

    async def _get(self, place: Place) -> tuple[bytes, Picture]:
        try:
            with aws_errors_as(StoreError):
                answer = await self._client.get_object(Bucket=place.bucket, Key=place.key)
                async with answer["Body"] as body:
                    if answer["ContentLength"] > MAX_FRAME_BYTES:
                        raise _too_large(place, answer["ContentLength"])
                    content = await body.read()
        except StoreError as error:
            if not _says_gone(error):
                raise
            detail = f"S3 gives no {place.key!r} in {place.bucket}: it is gone, or may not be read"
            raise IntakeError("no_such_object", detail) from error
        return content, Picture(place, answer["ETag"], answer["LastModified"])


def _says_gone(error: StoreError) -> bool:
    return isinstance(error.__cause__, Exception) and error_code(error.__cause__) in _GONE


def _too_large(place: Place, size: int) -> IntakeError:
    detail = f"{place.key!r} has {size:,} bytes, at most {MAX_FRAME_BYTES:,} are taken: put it smaller"
    return IntakeError("too_large", detail)
