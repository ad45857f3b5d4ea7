"""The three kinds of body that carry a picture (JSON, multipart, the image itself) become Frames.

Bodies are read in a stream with a hard limit, and what is no picture, or too large a one, is refused from its header.
Nothing here decodes pixels.
"""

import asyncio
import json
import uuid
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from io import BytesIO
from typing import Any

from fastapi import Request
from PIL.Image import DecompressionBombError
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile
from pydantic import ValidationError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from facewire.domain.errors import IntakeError
from facewire.domain.messages import MAX_FRAME_BYTES, Frame, FramePayload, explain
from facewire_gateway.api.problems import GatewayError

#: The same as the detector's; an image is decoded to at least 3 bytes a pixel.
MAX_PIXELS = 40_000_000
#: Images of one person in one request, and what they may weigh together.
MAX_IMAGES = 10
MAX_IMAGES_BYTES = 4 * MAX_FRAME_BYTES
#: Room for part headers and the fields beside the image.
_ENVELOPE_BYTES = 64 * 1024
#: base64 turns 3 bytes into 4 characters.
_MAX_JSON_BYTES = MAX_FRAME_BYTES * 4 // 3 + _ENVELOPE_BYTES
#: A body that takes longer than this is given up; 10 MiB need 1.4 Mbit/s.
_BODY_SECONDS = 60.0
#: Smaller bodies are hashed and checked on the event loop: below 1 ms, less than it costs to change threads.
_INLINE_BYTES = 128 * 1024
_READERS = ((b"\xff\xd8\xff", JpegImageFile), (b"\x89PNG", PngImageFile), (b"RIFF", WebPImageFile))


@dataclass(frozen=True, slots=True)
class _Picture:
    content: bytes
    filename: str = ""
    request_id: str | None = None
    captured_at: datetime | None = None


async def read_frame(request: Request, *, camera: str | None = None) -> Frame:
    """Return the one frame in the body of `request`, an upload to be recognised.

    The request id is the body's own, else that of the `X-Request-Id` header, else a new UUID4. IntakeError and
    GatewayError say what is wrong with the body.
    """
    [picture] = await _read_pictures(request, most=1)
    request.state.request_id = picture.request_id or request.state.request_id
    return await _frame(picture, request.state.request_id, camera=camera)


async def read_enrolment(request: Request, *, person: str) -> list[Frame]:
    """Return the frames in the body of `request`, 1 to 10 pictures of `person`.

    A request id for one picture is its own; several get it with `-1`, `-2` ... appended.
    """
    pictures = await _read_pictures(request, most=MAX_IMAGES)
    stem = next((picture.request_id for picture in pictures if picture.request_id), request.state.request_id)
    request.state.request_id = stem
    if len(pictures) == 1:
        return [await _frame(pictures[0], stem, enroll_as=person)]
    return [
        await _frame(picture, f"{stem}-{number}", enroll_as=person) for number, picture in enumerate(pictures, start=1)
    ]


async def _frame(picture: _Picture, request_id: str, **fields: Any) -> Frame:
    if len(picture.content) <= _INLINE_BYTES:
        return _checked_frame(picture, request_id, fields)
    return await asyncio.to_thread(_checked_frame, picture, request_id, fields)


def _checked_frame(picture: _Picture, request_id: str, fields: Mapping[str, Any]) -> Frame:
    try:
        frame = Frame.of(
            picture.content,
            request_id=request_id,
            filename=picture.filename,
            captured_at=picture.captured_at,
            **fields,
        )
        check_image(frame.content)
    except IntakeError as error:
        if not picture.filename:
            raise
        raise IntakeError(error.code, f"{picture.filename}: {error.detail}") from error
    return frame


def check_image(content: bytes) -> tuple[int, int]:
    """Return width and height, in pixels, of an encoded image; IntakeError for what is none or too large.

    Reads the header alone. Whether the rest can be decoded only the detector finds out.
    """
    reader = next((reader for signature, reader in _READERS if content.startswith(signature)), None)
    if reader is None:
        raise IntakeError("not_an_image", "the content is no JPEG, PNG or WebP picture: send one of these")
    try:
        with reader(BytesIO(content)) as image:
            width, height = image.size
    except DecompressionBombError as error:
        # Pillow's own limit is higher than ours and may speak before the size is known here.
        detail = f"the image has far more than the {MAX_PIXELS:,} pixels that are taken: send it smaller"
        raise IntakeError("image_too_large", detail) from error
    except (OSError, SyntaxError, ValueError) as error:
        detail = "the content starts like a picture, but its header cannot be read: send it whole"
        raise IntakeError("not_an_image", detail) from error
    if width * height > MAX_PIXELS:
        detail = f"the image is {width} x {height} = {width * height:,} pixels, at most {MAX_PIXELS:,} are taken"
        raise IntakeError("image_too_large", f"{detail}: send it smaller")
    return width, height


async def _read_pictures(request: Request, *, most: int) -> list[_Picture]:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            if kind == "application/json":
                return [await _read_json(request)]
            if kind == "multipart/form-data":
                return await _read_multipart(request, most)
            if kind.startswith("image/") or kind in {"", "application/octet-stream"}:
                return [_Picture((await _read_body(request, MAX_FRAME_BYTES)).getvalue())]
    except TimeoutError as error:
        detail = f"the body did not arrive within {_BODY_SECONDS:.0f} s: send it faster, or a smaller image"
        raise GatewayError("body_too_slow", detail) from error
    detail = f"Content-Type {kind!r} is not taken: send application/json, multipart/form-data or image/jpeg, png, webp"
    raise GatewayError("unsupported_media_type", detail)


async def _read_body(request: Request, limit: int) -> BytesIO:
    """Return the body in a buffer whose `getvalue` copies nothing."""
    body = BytesIO()
    async for chunk in _limited(request, limit):
        body.write(chunk)
    return body


async def _limited(request: Request, limit: int) -> AsyncGenerator[bytes, None]:
    """Yield the body's chunks; IntakeError as soon as it is known to have more than `limit` bytes."""
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise _too_large(limit)
    taken = 0
    async for chunk in request.stream():
        taken += len(chunk)
        if taken > limit:
            raise _too_large(limit)
        yield chunk


def _too_large(limit: int) -> IntakeError:
    detail = f"the body has more than {limit:,} bytes; an image may have {MAX_FRAME_BYTES:,}: send a smaller one"
    return IntakeError("too_large", detail)


async def _read_json(request: Request) -> _Picture:
    body = await _read_body(request, _MAX_JSON_BYTES)
    if not body.tell():
        raise IntakeError("empty_body", 'the body is empty: send {"content": "<base64 of a picture>"}')
    if body.tell() <= _INLINE_BYTES:
        return _picture_of_json(body)
    return await asyncio.to_thread(_picture_of_json, body)


def _text_of(body: BytesIO) -> str:
    """Return the JSON text in `body`, which is closed: `json.loads` would keep the bytes beside text and value."""
    with body:
        encoded = body.getvalue()
    return encoded.decode(json.detect_encoding(encoded), "surrogatepass")


def _picture_of_json(body: BytesIO) -> _Picture:
    try:
        values = json.loads(_text_of(body))
    except (ValueError, RecursionError) as error:
        raise IntakeError("bad_request", "the body is no JSON in UTF-8") from error
    if not isinstance(values, dict):
        raise IntakeError("bad_request", f"the body is a JSON {type(values).__name__}, must be an object")
    if values.get("enroll_as") is not None:
        raise IntakeError("enroll_refused", "enroll_as is not taken here: enrol over POST /v1/people/{person}/faces")
    given_id = values.get("request_id")
    try:
        # The wire format demands an id; over HTTP the gateway gives one to who has none.
        sent = FramePayload.model_validate(
            {**values, "request_id": str(uuid.uuid4()) if given_id is None else given_id}
        )
    except ValidationError as error:
        raise IntakeError("bad_request", explain(error)) from error
    return _Picture(sent.content, sent.filename, None if given_id is None else sent.request_id, sent.captured_at)


async def _picture_of_file(file: UploadFile) -> _Picture:
    """Return the picture in `file`, which is closed: its buffer stays no longer beside the copy."""
    content = await file.read()
    await file.close()
    return _Picture(content, (file.filename or "")[:255])


class _InMemoryParser(MultiPartParser):
    spool_max_size = MAX_IMAGES_BYTES


async def _read_multipart(request: Request, most: int) -> list[_Picture]:
    limit = (MAX_FRAME_BYTES if most == 1 else MAX_IMAGES_BYTES) + _ENVELOPE_BYTES
    parser = _InMemoryParser(request.headers, _limited(request, limit), max_files=MAX_IMAGES, max_fields=MAX_IMAGES)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise GatewayError("bad_multipart", f"the multipart body cannot be read: {error.message}") from error
    try:
        files = [part for name, part in form.multi_items() if name == "file" and isinstance(part, UploadFile)]
        pictures = [await _picture_of_file(file) for file in files]
    finally:
        await form.close()
    if not 1 <= len(pictures) <= most:
        detail = f"the multipart body has {len(pictures)} parts named 'file', must have 1" + f" to {most}" * (most > 1)
        raise GatewayError("too_many_images" if pictures else "bad_multipart", detail)
    given_id = form.get("request_id")
    return [replace(picture, request_id=given_id) for picture in pictures] if isinstance(given_id, str) else pictures
