"""What is said of a failure: in the answer to whoever asked, and in the log."""

import json
from pathlib import Path

from facewire.errors import FacewireError
from facewire.messages import FAILED, Failure, RecognizedFaces, Source


def answer_unread(body: bytes, error: FacewireError, source: Source) -> RecognizedFaces | None:
    """Return the `failed` answer to a message that cannot be read but for its request id, None without one."""
    try:
        fields = json.loads(body)
        received = {"received_at": fields["received_at"]} if "received_at" in fields else {}
        return RecognizedFaces(
            **received,
            request_id=fields["request_id"],
            status="failed",
            result=FAILED,
            camera=fields.get("camera"),
            source=source,
            content_sha256=fields.get("content_sha256", ""),
            error=Failure(stage=error.stage, code=error.code, detail=error.detail),
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def error_name(error: Exception) -> str:
    """Return stage and code of one of our errors, the class of any other: its text may hold content."""
    return f"{error.stage}: {error.code}" if isinstance(error, FacewireError) else type(error).__name__


def error_origin(error: Exception) -> str | None:
    """Return file and line that raised the error, which say more than its class and hold no content."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace else None
