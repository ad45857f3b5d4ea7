"""What is said of a failure: in the answer to whoever asked, and in the log."""

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from facewire.domain.errors import FacewireError, QueueError, RecognizeError
from facewire.domain.messages import END_OF_JSON, FAILED, Failure, RecognizedFaces, Source
from facewire.domain.ports import MAX_RECEIVES


def last_error(error: Exception, kind: type[FacewireError]) -> FacewireError:
    """Return what the answer says of an error that stayed to the last attempt; of a stage's `kind` if it has none."""
    if isinstance(error, FacewireError):
        return error
    return kind("internal", f"{MAX_RECEIVES} attempts failed, the last with {error_name(error)}")


def answer_given_up(body: bytes, source: Source) -> RecognizedFaces | None:
    """Return the answer to a dead letter: itself where it is one, else `failed: dead_letter`.

    None where it names no request.
    """
    try:
        return RecognizedFaces.from_bytes(body)
    except RecognizeError:
        detail = f"given up after {MAX_RECEIVES} attempts, none of which came to an end: send the frame again"
        return answer_unread(body, QueueError("dead_letter", detail), source)


def answer_unread(body: bytes, error: FacewireError, source: Source) -> RecognizedFaces | None:
    """Return the `failed` answer to a message that cannot be read but for its request id, None without one.

    Camera, hash and time of receipt are the message's where all of those it names are readable.
    """
    said = _fields(body)
    if "request_id" not in said:
        return None
    try:
        return _answer(said, error, source)
    except ValidationError:
        return _answer_to_id(said["request_id"], error, source)


def _fields(body: bytes) -> dict[str, Any]:
    try:
        said = json.loads(body.partition(END_OF_JSON)[0])
    except (ValueError, RecursionError):
        return {}
    named = ("request_id", "camera", "content_sha256", "received_at")
    return {name: said[name] for name in named if name in said} if isinstance(said, dict) else {}


def _answer_to_id(request_id: object, error: FacewireError, source: Source) -> RecognizedFaces | None:
    try:
        return _answer({"request_id": request_id}, error, source)
    except ValidationError:
        return None


def _answer(said: dict[str, Any], error: FacewireError, source: Source) -> RecognizedFaces:
    return RecognizedFaces(**said, status="failed", result=FAILED, source=source, error=Failure.of(error))


def error_name(error: Exception) -> str:
    """Return stage and code of one of our errors, the class of any other: its text may hold content."""
    return f"{error.stage}: {error.code}" if isinstance(error, FacewireError) else type(error).__name__


def error_origin(error: Exception) -> str | None:
    """Return file and line that raised the error, which say more than its class and hold no content."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace else None
