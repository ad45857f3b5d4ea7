"""Results as they come: a live table on a terminal, lines elsewhere."""

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from facewire.messages import RecognizedFaces
from facewire_standalone.answers import milliseconds, reason, similarity, summary
from facewire_standalone.client import Client, ClientError, Event

_ROWS = 20
#: Seconds between two attempts to reach the API again: doubled up to the second.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 10.0


class ResultTable:
    """The latest answers, newest first, and the state of the connection."""

    def __init__(self) -> None:
        self.answers: deque[RecognizedFaces] = deque(maxlen=_ROWS)
        self.seen = 0
        self.state = "connecting"

    def take(self, event: Event) -> None:
        """Put an answer on top, or note the state of the connection."""
        if event.answer is not None:
            self.answers.appendleft(event.answer)
            self.seen += 1
        elif event.name == "open":
            self.state = "watching"
        elif event.name == "overflow":
            self.state = "watching; results came faster than they could be shown, some are missing here"

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


async def watch(*, url: str, key: str | None, console: Console) -> None:
    """Show results until cancelled: a live table on a terminal, a line each anywhere else.

    Reconnects while the API is away; ClientError if it refuses the key.
    """
    table = ResultTable()
    if not console.is_terminal:
        await _follow(url, key, table, partial(_print_line, console))
        return
    with Live(table, console=console, refresh_per_second=8):
        await _follow(url, key, table, table.take)


async def _follow(url: str, key: str | None, table: ResultTable, take: Callable[[Event], None]) -> None:
    pause = _FIRST_PAUSE
    while True:
        try:
            async with Client.open(url, key) as client:
                async for event in client.events():
                    pause = _FIRST_PAUSE
                    take(event)
            table.state = "the connection ended (trying again)"
        except ClientError as error:
            if error.status is not None:
                raise
            table.state = f"{error.detail} (trying again)"
        await asyncio.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)


def _print_line(console: Console, event: Event) -> None:
    if event.answer is not None:
        camera = event.answer.camera or "-"
        name = event.answer.filename or event.answer.request_id
        console.print(f"{camera}  {summary(name, event.answer)}", markup=False, highlight=False, soft_wrap=True)
