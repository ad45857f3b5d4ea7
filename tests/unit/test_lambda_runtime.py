"""One container: opened once, one event loop, one line of metrics for each event."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from facewire.domain.errors import SettingsError, StoreError
from facewire_lambda.emf import Metrics
from facewire_lambda.runtime import Container, Function, Handler
from facewire_lambda.settings import LambdaSettings


@dataclass
class Context:
    aws_request_id: str = "c6af9ac6-7b61-11e6-9a41-93e8deadbeef"


class Opened:
    """A function that notes what happens to it."""

    def __init__(self) -> None:
        self.loops: list[asyncio.AbstractEventLoop] = []
        self.opens = self.closes = 0
        self.lines: list[str] = []

    @asynccontextmanager
    async def open(self, _: LambdaSettings, metrics: Metrics) -> AsyncIterator[Function]:
        self.opens += 1

        async def work(event: dict[str, Any]) -> dict[str, Any]:
            self.loops.append(asyncio.get_running_loop())
            structlog.get_logger().info("working")
            metrics.count("Frames")
            if "error" in event:
                raise event["error"]
            return event

        yield work
        self.closes += 1

    def container(self) -> Container:
        return Container(self.open, LambdaSettings(), Metrics("f", write=self.lines.append))


def test_events_share_what_was_opened_and_the_event_loop() -> None:
    opened = Opened()
    container = opened.container()
    assert [container({"number": number}, Context()) for number in range(3)] == [{"number": n} for n in range(3)]
    assert len(set(opened.loops)) == 1
    assert (opened.opens, opened.closes) == (1, 0)
    container.close()
    assert opened.closes == 1
    assert opened.loops[0].is_closed()


def test_every_event_has_its_line_of_metrics_and_the_first_says_how_long_opening_took() -> None:
    opened = Opened()
    container = opened.container()
    container({}, Context())
    container({}, Context())
    first, second = map(json.loads, opened.lines)
    assert first["Frames"] == second["Frames"] == 1
    assert "InitMs" in first
    assert "InitMs" not in second
    container.close()


def test_an_error_reaches_the_runtime_and_is_logged_and_counted_without_its_text() -> None:
    opened = Opened()
    container = opened.container()
    with capture_logs(processors=[structlog.contextvars.merge_contextvars]) as logs, pytest.raises(RuntimeError):
        container({"error": RuntimeError("what a picture holds")}, Context())
    assert logs[-1]["error"] == "RuntimeError"
    assert logs[-1]["aws_request_id"] == Context().aws_request_id
    assert "picture" not in json.dumps(logs)
    assert json.loads(opened.lines[0])["Faults"] == 1
    with capture_logs() as logs, pytest.raises(StoreError):
        container({"error": StoreError("unreachable", "no answer")}, Context())
    assert (logs[-1]["error"], logs[-1]["detail"]) == ("store: unreachable", "no answer")
    container.close()


def test_a_line_of_metrics_is_in_the_embedded_format() -> None:
    lines: list[str] = []
    metrics = Metrics("recognize", write=lines.append)
    metrics.count("Faces", 2)
    metrics.count("Faces", 3)
    metrics.time_steps({"embed": 12.34, "queue": 5.0, "other": 1.0}, {"embed": "EmbedMs", "queue": "QueueMs"})
    metrics.time("EmbedMs", 20)
    metrics.flush()
    metrics.flush()
    [line] = lines
    said = json.loads(line)
    [directive] = said["_aws"]["CloudWatchMetrics"]
    assert directive["Namespace"] == "Facewire"
    assert directive["Dimensions"] == [["function"]]
    units = {metric["Name"]: metric["Unit"] for metric in directive["Metrics"]}
    assert units == {"Faces": "Count", "EmbedMs": "Milliseconds", "QueueMs": "Milliseconds"}
    assert (said["function"], said["Faces"], said["EmbedMs"], said["QueueMs"]) == ("recognize", 5, [12.3, 20], [5.0])
    assert said["_aws"]["Timestamp"] > 1_795_000_000_000
    assert "\n" not in line


def test_a_hundred_durations_fit_into_a_line() -> None:
    lines: list[str] = []
    metrics = Metrics("f", write=lines.append)
    for number in range(101):
        metrics.time("EmbedMs", number)
    metrics.flush()
    assert len(json.loads(lines[0])["EmbedMs"]) == 100


@pytest.mark.parametrize(
    ("variable", "arguments"),
    [(f"{__name__}.one", ["test"]), ("", ["__main__.py", f"{__name__}.one"])],
    ids=["of an archive", "of an image"],
)
def test_only_the_handler_that_the_container_is_for_is_opened_as_it_is_imported(
    monkeypatch: pytest.MonkeyPatch, variable: str, arguments: list[str]
) -> None:
    opened: list[str] = []

    @asynccontextmanager
    async def one(_: LambdaSettings, __: Metrics) -> AsyncIterator[Function]:
        opened.append("one")
        yield echo

    @asynccontextmanager
    async def other(_: LambdaSettings, __: Metrics) -> AsyncIterator[Function]:
        opened.append("other")
        yield echo

    async def echo(event: dict[str, Any]) -> dict[str, Any]:
        return event

    monkeypatch.setattr("facewire_lambda.runtime.configure_logging", lambda *_: None)
    monkeypatch.setattr("facewire_lambda.runtime.keep_memory_level", lambda: None)
    monkeypatch.setenv("_HANDLER", variable)
    monkeypatch.setattr("sys.argv", arguments)
    handlers = [Handler(one), Handler(other)]
    assert opened == ["one"]
    assert [handler({"a": 1}, Context()) for handler in handlers] == [{"a": 1}] * 2
    assert opened == ["one", "other"]


def test_a_wrong_setting_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACEWIRE_TABLE", "no table!")
    with pytest.raises(SettingsError, match="table"):
        Handler(Opened().open).open()


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("function_url", {"facewire.stages.recognize", "facewire.adapters.aws.dynamodb.table"}),
        ("request_queue", {"cv2"}),
        ("dead_letters", {"cv2", "onnxruntime"}),
    ],
)
def test_a_function_loads_no_more_than_it_needs(module: str, unwanted: set[str]) -> None:
    program = f"import sys, facewire_lambda.{module}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.split()
    assert not unwanted & set(loaded)
