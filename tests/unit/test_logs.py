import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from facewire.runtime.logs import configure_logging


@pytest.fixture(autouse=True)
def _restore_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    root.handlers = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def fail(picture: bytes) -> None:
    message = f"cannot use {len(picture)} bytes"
    raise ValueError(message)


def test_json_lines_hold_level_time_and_what_is_bound(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", "json")
    with structlog.contextvars.bound_contextvars(request_id="r1"):
        structlog.get_logger().info("a frame", bytes=5)
    line = json.loads(capsys.readouterr().err)
    assert line.pop("timestamp").endswith("Z")
    assert line == {"event": "a frame", "level": "info", "request_id": "r1", "bytes": 5}


def test_lines_below_the_level_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("warning", "json")
    structlog.get_logger().info("a frame")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("form", ["json", "console"])
def test_tracebacks_show_no_local_variables(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", "json" if form == "json" else "console")
    try:
        fail(bytes(range(65, 90)))
    except ValueError:
        structlog.get_logger().exception("it failed")
        logging.getLogger("library").exception("it failed")
    written = capsys.readouterr().err
    assert written.count("ValueError") >= 2
    assert "ABCDEFG" not in written


def test_library_lines_look_like_ours(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", "json")
    logging.getLogger("paho").warning("connection lost after %s s", 3)
    logging.getLogger("paho").info("chatter")
    (line,) = capsys.readouterr().err.splitlines()
    assert json.loads(line) | {"timestamp": ""} == {
        "event": "connection lost after 3 s",
        "level": "warning",
        "logger": "paho",
        "timestamp": "",
    }
