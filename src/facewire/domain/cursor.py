"""The cursor of a page of results: where in the history, newest first, the next page goes on."""

import base64
import json
from datetime import datetime

from facewire.domain.errors import StoreError
from facewire.domain.timing import from_micros, to_micros


def write_cursor(received_at: datetime, request_id: str) -> str:
    """Return the cursor that leads on after that result."""
    return base64.urlsafe_b64encode(json.dumps([to_micros(received_at), request_id]).encode()).decode()


def read_cursor(cursor: str) -> tuple[datetime, str]:
    """Return what `write_cursor` was given; StoreError `bad_cursor` for a cursor of nobody's."""
    try:
        micros, request_id = json.loads(base64.b64decode(cursor, altchars=b"-_", validate=True))
        if type(micros) is not int or not isinstance(request_id, str):
            raise _bad_cursor()
        return from_micros(micros), request_id
    except (ValueError, TypeError, OverflowError) as error:
        raise _bad_cursor() from error


def _bad_cursor() -> StoreError:
    return StoreError("bad_cursor", "the cursor is not one that a page of results gave: start without one")
