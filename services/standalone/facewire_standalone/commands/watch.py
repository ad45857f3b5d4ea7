"""Results as they come: a live table on a terminal, lines elsewhere."""

import asyncio
from collections import deque
from typing import Protocol

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from facewire.domain.messages import RecognizedFaces
from facewire_standalone.commands.answers import milliseconds, reason, similarity, summary
from facewire_standalone.commands.client import Client, ClientError, Event

_ROWS = 20
#: Seconds between two attempts to reach the API again: doubled up to the second.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 10.0


class Display(Protocol):
    """Shows what comes."""

    def take(self, answer: RecognizedFaces) -> None:
        """Show an answer."""

    def note(self, state: str) -> None:
        """Show the state of the connection."""


class ResultTable:
    """The latest answers, newest first, and the state of the connection."""

    def __init__(self) -> None:
        self.answers: deque[RecognizedFaces] = deque(maxlen=_ROWS)
        self.seen = 0
        self.state = "connecting"

    def take(self, answer: RecognizedFaces) -> None:
        """Put an answer on top."""
        self.answers.appendleft(answer)
        self.seen += 1

    def note(self, state: str) -> None:
        """Let the title tell the state of the connection."""
        self.state = state

    def __rich__(self) -> Table:
        """Return the table that rich draws."""
        table = Table(title=f"{self.seen} results, {self.state}", title_justify="left")
        for heading in ("time", "camera", "file", "result", "similarity", "reason", "ms"):
            table.add_column(heading)
        for answer in self.answers:
            table.add_row(*(Text(cell) for cell in _cells(answer)))
        return table


def _cells(answer: RecognizedFaces) -> tuple[str, ...]:
    return (
        answer.answered_at.astimezone().strftime("%H:%M:%S"),
        answer.camera or "-",
        answer.filename or "-",
        answer.result,
        similarity(answer),
        reason(answer),
        milliseconds(answer, "total"),
    )


class ResultLines:
    """A line for each answer on `console`, one for each change of the connection's state on `errors`."""

    def __init__(self, console: Console, errors: Console) -> None:
        self._console = console
        self._errors = errors
        self._state = ""

    def take(self, answer: RecognizedFaces) -> None:
        """Print an answer."""
        line = f"{answer.camera or '-'}  {summary(answer.filename or answer.request_id, answer)}"
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def note(self, state: str) -> None:
        """Print the state of the connection if it is another than before."""
        if state != self._state:
            self._state = state
            self._errors.print(f"facewire: {state}", markup=False, highlight=False, soft_wrap=True)


async def watch(*, url: str, key: str | None, console: Console, errors: Console) -> None:
    """Show results until cancelled: a live table on a terminal, a line each anywhere else.

    Reconnects while the API is away, which the table's title tells, or a line on `errors`. ClientError if the API
    refuses the key, SettingsError for a URL or a key that is none.
    """
    if not console.is_terminal:
        await _follow(url, key, ResultLines(console, errors))
        return
    table = ResultTable()
    with Live(table, console=console, refresh_per_second=8):
        await _follow(url, key, table)


async def _follow(url: str, key: str | None, display: Display) -> None:
    pause = _FIRST_PAUSE
    while True:
        try:
            async with Client.open(url, key) as client:
                async for event in client.events():
                    pause = _FIRST_PAUSE
                    show(event, display)
            display.note("the connection ended (trying again)")
        except ClientError as error:
            if error.status is not None:
                raise
            display.note(f"{error.detail} (trying again)")
        await asyncio.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)


def show(event: Event, display: Display) -> None:
    """Show the answer of an event, or what it tells of the connection."""
    if event.answer is not None:
        display.take(event.answer)
    elif event.name == "open":
        display.note("watching")
    elif event.name == "overflow":
        display.note("watching; results came faster than they could be shown, some are missing here")
