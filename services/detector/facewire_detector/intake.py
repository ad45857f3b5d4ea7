"""Frames come in: committed to the inbox first, acknowledged to their sender after that. Refusals are answered too.

Over MQTT every frame ends as an answer: committed, or `failed` with the reason on the response queue, and only then
acknowledged, so none vanishes and none is sent again for ever. What a camera sees of a payload over the broker's limit
(16 MiB) is a connection reset: no such payload reaches this code.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import nullcontext
from typing import Protocol

import structlog

from facewire.adapters.mqtt.connection import Received
from facewire.domain.errors import IntakeError, QueueError, StoreError
from facewire.domain.messages import Frame, RecognizedFaces, failed
from facewire.domain.ports import Queue
from facewire.runtime import metrics
from facewire.runtime.backoff import growing_pauses, wait_event
from facewire_detector.topics import read_frame, refusal

STAGE = "intake"
#: Commits under way at the same time; they share the database's group commits.
MAX_COMMITS = 64
#: Larger payloads are read in a thread: 256 KiB of JSON take about a millisecond.
LARGE_PAYLOAD_BYTES = 256 * 1024
#: Large payloads read and committed at the same time; a payload of 16 MiB takes about 45 MiB while it is.
MAX_LARGE_COMMITS = 4
#: After an UNSUBSCRIBE a broker that has sent nothing for so long has nothing more: a message takes milliseconds.
QUIET_SECONDS = 0.5
_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 5.0

_log = structlog.get_logger()

#: Returns the frame in a message of a topic; IntakeError says what is wrong.
Reading = Callable[[str, bytes], Frame]


class FrameSource(Protocol):
    """Where messages with frames come from: an `MqttConnection`, or what behaves like one."""

    def messages(self) -> AsyncIterator[Received]:
        """Yield what arrives, in order; never ends by itself."""

    async def unsubscribe(self) -> None:
        """Give up the subscriptions and return once nothing more is sent for them."""


class FrameInbox(Protocol):
    """Where frames wait to be looked at: `facewire.adapters.sqlite.inbox.Inbox`."""

    async def accept(self, frame: Frame, *, again: bool = False) -> list[Frame]:
        """Commit the frame, answer those that had to leave for it and return them.

        One that may come `again` is passed over only while its answer is sure to come.
        IntakeError `id_conflict` or `overloaded`.
        """


class Intake:
    """Commits frames to the inbox, which answers those that had to leave it, and sends the answers to refused ones."""

    def __init__(self, inbox: FrameInbox, responses: Queue) -> None:
        self._inbox = inbox
        self._responses = responses

    async def accept(self, frame: Frame, *, again: bool = False) -> None:
        """Commit the frame, which may come `again` to be answered; it is safe when this returns.

        IntakeError `id_conflict` (its id is taken by other content) or `overloaded` (no room and the policy says to
        keep what is there); QueueError when the inbox cannot be written.
        """
        skipped = await self._inbox.accept(frame, again=again)
        metrics.MESSAGES.labels(STAGE, "done").inc()
        metrics.MESSAGES.labels(STAGE, "failed").inc(len(skipped))

    async def answer(self, answers: Sequence[RecognizedFaces]) -> None:
        """Send answers that need no recognition; QueueError when the response queue cannot be written."""
        await self._responses.send([answer.to_bytes() for answer in answers])


async def take_from_mqtt(
    connection: FrameSource, intake: Intake, *, stop: asyncio.Event, drain_seconds: float = 5.0
) -> None:
    """Commit the frames that `connection` receives until `stop` is set.

    Many commits run at once; acknowledgements keep the order of arrival. After the stop what is in flight has
    `drain_seconds` to be committed; the broker keeps the rest for the next connection of the same identifier.
    """
    await consume_frames(connection, intake, stop=stop, drain_seconds=drain_seconds, may_leave=lambda: False)


async def consume_frames(  # noqa: PLR0913 - all but source and intake are named
    connection: FrameSource,
    intake: Intake,
    *,
    stop: asyncio.Event,
    may_leave: Callable[[], bool],
    drain_seconds: float = 5.0,
    reading: Reading = read_frame,
) -> bool:
    """Do the same, but at the stop leave the subscriptions of `connection`, if it may.

    Nothing more is dealt to it then, and what it was dealt already is taken as well. `reading` says what is a frame.
    Returns whether the connection has left and everything was taken within `drain_seconds`.
    """
    taking = _MqttIntake(intake, reading)
    left = False
    try:
        async with asyncio.timeout(None) as deadline, asyncio.TaskGroup() as tasks:
            reader = tasks.create_task(taking.read(connection, tasks), name="mqtt intake")
            await stop.wait()
            deadline.reschedule(asyncio.get_running_loop().time() + drain_seconds)
            if await asyncio.to_thread(may_leave):
                await connection.unsubscribe()
                await taking.fall_quiet(QUIET_SECONDS)
                left = True
            reader.cancel()
    except TimeoutError:
        _log.warning("not every frame was taken in time", stage=STAGE, drain_seconds=drain_seconds)
        return False
    return left


class _MqttIntake:
    def __init__(self, intake: Intake, reading: Reading) -> None:
        self._intake = intake
        self._reading = reading
        self._places = asyncio.Semaphore(MAX_COMMITS)
        self._large_places = asyncio.Semaphore(MAX_LARGE_COMMITS)
        self._in_flight = 0
        self._moved = asyncio.Event()

    async def read(self, connection: FrameSource, tasks: asyncio.TaskGroup) -> None:
        async for message in connection.messages():
            await self._places.acquire()
            self._in_flight += 1
            self._moved.set()
            tasks.create_task(self._take(message), name="mqtt commit").add_done_callback(self._free_place)

    async def fall_quiet(self, seconds: float) -> None:
        """Return once nothing is in flight, and nothing has come for that long."""
        while await wait_event(self._moved, seconds) or self._in_flight:
            self._moved.clear()

    def _free_place(self, _: asyncio.Task[None]) -> None:
        self._in_flight -= 1
        self._moved.set()
        self._places.release()

    async def _take(self, message: Received) -> None:
        """Commit or refuse one message, trying again for as long as the disk does not take it, and acknowledge it."""
        large = len(message.payload) > LARGE_PAYLOAD_BYTES
        async with self._large_places if large else nullcontext():
            for pause in growing_pauses(_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS):
                try:
                    await self._commit(message, large=large)
                    break
                except (QueueError, StoreError) as error:
                    metrics.QUEUE_ERRORS.labels(STAGE, "commit").inc()
                    _log.warning("a frame could not be committed", topic=message.topic, error=error.code)
                await asyncio.sleep(pause)
        message.acknowledge()

    async def _commit(self, message: Received, *, large: bool) -> None:
        topic, payload = message.topic, message.payload
        try:
            read = self._reading
            frame = await asyncio.to_thread(read, topic, payload) if large else read(topic, payload)
        except IntakeError as error:
            await self._refuse(await asyncio.to_thread(refusal, topic, payload, error))
            return
        try:
            # Sent again, a frame is looked at again unless it is still here: only the gateway knows of its answer,
            # and of whether the gallery has changed. It tells the camera, however often that asks.
            await self._intake.accept(frame, again=True)
        except IntakeError as error:
            await self._refuse(failed(frame, error, source="edge"))

    async def _refuse(self, answer: RecognizedFaces) -> None:
        code = "" if answer.error is None else answer.error.code
        await self._intake.answer([answer])
        metrics.MESSAGES.labels(STAGE, "failed").inc()
        _log.info("a frame was refused", request_id=answer.request_id, camera=answer.camera, error=code)
