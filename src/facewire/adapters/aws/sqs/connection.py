"""The connection to SQS that all queues of a process share."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Self, TypeVar

import structlog

from facewire.adapters.aws.clients import sqs_client, sqs_poll_client
from facewire.adapters.aws.errors import aws_errors_as
from facewire.adapters.aws.provision import DEAD_SUFFIX, ensure_queue, queue_name
from facewire.domain.errors import QueueError
from facewire.runtime.settings import AwsSettings

if TYPE_CHECKING:
    from types_aiobotocore_sqs import SQSClient

T = TypeVar("T")
_log = structlog.get_logger()

#: How long after the last poll was given up the end waits for those that nobody waits for any more.
_LAST_POLLS_SECONDS = 3.0


class SqsConnection:
    """One client for calls and one for long polls, the queues' URLs, and the polls that were given up."""

    def __init__(self, settings: AwsSettings, calls: "SQSClient", polls: "SQSClient") -> None:
        self.calls = calls
        self.polls = polls
        self._settings = settings
        self._urls: dict[str, str] = {}
        self._making = asyncio.Lock()
        self._background: set[asyncio.Task[None]] = set()
        self._patience_ends = 0.0

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: AwsSettings) -> AsyncIterator[Self]:
        """Open the clients; SQS is called first by what is done with a queue.

        In the end it waits for polls that were given up less than three seconds ago, to hand back what they still get.
        """
        async with sqs_client(settings) as calls, sqs_poll_client(settings) as polls:
            connection = cls(settings, calls, polls)
            try:
                yield connection
            finally:
                await connection._end_background()

    async def call(self, name: str, request: Callable[[str], Awaitable[T]]) -> T:
        """Call `request` with the queue's URL; a queue that is missing is made once if the settings say so."""
        try:
            return await self._call(name, request)
        except QueueError as error:
            if error.code != "no_such_queue" or not self._settings.aws_create_missing:
                raise
        await self._make(name)
        return await self._call(name, request)

    def in_background(self, work: "asyncio.Task[None]") -> None:
        """Let `work` come to its end by itself."""
        self._patience_ends = asyncio.get_running_loop().time() + _LAST_POLLS_SECONDS
        self._background.add(work)
        work.add_done_callback(self._background.discard)

    async def _call(self, name: str, request: Callable[[str], Awaitable[T]]) -> T:
        try:
            with aws_errors_as(QueueError):
                return await request(await self._url(name))
        except QueueError as error:
            if error.code != "no_such_queue":
                raise
            detail = f"there is no queue {queue_name(name)!r} in {self._settings.region}: `facewire aws init` makes it"
            raise QueueError("no_such_queue", detail) from error
        except KeyError as error:
            detail = f"what answers at FACEWIRE_AWS_ENDPOINT_URL is not SQS: its answer has no {error}"
            raise QueueError("unreachable", detail) from error

    async def _url(self, name: str) -> str:
        if "://" in name:
            return name
        if name not in self._urls:
            self._urls[name] = (await self.calls.get_queue_url(QueueName=name))["QueueUrl"]
        return self._urls[name]

    async def _make(self, name: str) -> None:
        async with self._making:
            self._urls.pop(name, None)
            ensured = await ensure_queue(self.calls, queue_name(name).removesuffix(DEAD_SUFFIX))
        if made := [queue.name for queue in ensured if queue.made]:
            _log.warning("queues were missing and have been made, empty", queues=made)

    async def _end_background(self) -> None:
        if not self._background:
            return
        seconds = self._patience_ends - asyncio.get_running_loop().time()
        _, late = await asyncio.wait(self._background, timeout=max(0.0, seconds))
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late)
            _log.info("polls were cut off: what SQS lent to them comes back when its lease ends", polls=len(late))
