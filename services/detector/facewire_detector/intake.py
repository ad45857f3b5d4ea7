"""Frames come in: committed to the inbox first, acknowledged to their sender after that. Refusals are answered too.

Over MQTT every frame ends as an answer: committed, or `failed` with the reason on the response queue, and only then
acknowledged, so none vanishes and none is sent again for ever. What a camera sees of a payload over the broker's limit
(16 MiB) is a connection reset: no such payload reaches this code.
"""

import asyncio
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Protocol

import structlog
from pydantic_core import from_json

from facewire import metrics
from facewire.errors import IntakeError, QueueError, StoreError
from facewire.messages import FAILED, Failure, Frame, RecognizedFaces, failed, parse_frame, sha256
from facewire.mqtt import MqttConnection, Received
from facewire.names import check_request_id, raw_frame_id
from facewire.queues import Queue
from facewire.waiting import growing_pauses

STAGE = "intake"
#: The topic filter of frames; the last part is the camera. Results (`clients/<camera>/results`) do not match it.
FRAMES_TOPIC = "clients/+"
#: Commits under way at the same time; they share the database's group commits.
MAX_COMMITS = 64
#: Larger payloads are read in a thread: 256 KiB of JSON take about a millisecond.
LARGE_PAYLOAD_BYTES = 256 * 1024
#: Large payloads read and committed at the same time; a payload of 16 MiB takes about 45 MiB while it is.
MAX_LARGE_COMMITS = 4
_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 5.0

_log = structlog.get_logger()


class FrameInbox(Protocol):
    """Where frames wait to be looked at: `facewire.queues.inbox.Inbox`."""

    async def accept(self, frame: Frame) -> list[Frame]:
        """Commit the frame, answer those that had to leave for it and return them.

        IntakeError `id_conflict` or `overloaded`.
        """


class Intake:
    """Commits frames to the inbox, which answers those that had to leave it, and sends the answers to refused ones."""

    def __init__(self, inbox: FrameInbox, responses: Queue) -> None:
        self._inbox = inbox
        self._responses = responses

    async def accept(self, frame: Frame) -> None:
        """Commit the frame; it is safe when this returns.

        IntakeError `id_conflict` (its id is taken by other content) or `overloaded` (no room and the policy says to
        keep what is there); QueueError when the inbox cannot be written.
        """
        skipped = await self._inbox.accept(frame)
        metrics.MESSAGES.labels(STAGE, "done").inc()
        metrics.MESSAGES.labels(STAGE, "failed").inc(len(skipped))

    async def answer(self, answers: Sequence[RecognizedFaces]) -> None:
        """Send answers that need no recognition; QueueError when the response queue cannot be written."""
        await self._responses.send([answer.to_bytes() for answer in answers])


async def take_from_mqtt(
    connection: MqttConnection, intake: Intake, *, stop: asyncio.Event, drain_seconds: float = 5.0
) -> None:
    """Commit the frames that `connection` (subscribed to FRAMES_TOPIC) receives until `stop` is set.

    Many commits run at once; acknowledgements keep the order of arrival. After the stop what is in hand has
    `drain_seconds` to be committed; the broker keeps the rest for the next connection of the same identifier.
    """
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(None) as deadline, asyncio.TaskGroup() as tasks:
            reader = tasks.create_task(_MqttIntake(intake).read(connection, tasks), name="mqtt intake")
            await stop.wait()
            reader.cancel()
            deadline.reschedule(loop.time() + drain_seconds)
    except TimeoutError:
        _log.warning("frames in hand were not committed in time", stage=STAGE, drain_seconds=drain_seconds)


class _MqttIntake:
    def __init__(self, intake: Intake) -> None:
        self._intake = intake
        self._places = asyncio.Semaphore(MAX_COMMITS)
        self._large_places = asyncio.Semaphore(MAX_LARGE_COMMITS)

    async def read(self, connection: MqttConnection, tasks: asyncio.TaskGroup) -> None:
        async for message in connection.messages():
            await self._places.acquire()
            tasks.create_task(self._take(message), name="mqtt commit").add_done_callback(self._free_place)

    def _free_place(self, _: asyncio.Task[None]) -> None:
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
        camera = message.topic.rpartition("/")[2]
        try:
            if large:
                frame = await asyncio.to_thread(parse_frame, message.payload, camera=camera)
            else:
                frame = parse_frame(message.payload, camera=camera)
        except IntakeError as error:
            await self._refuse(await asyncio.to_thread(refusal, message.payload, camera, error))
            return
        try:
            await self._intake.accept(frame)
        except IntakeError as error:
            await self._refuse(failed(frame, error, source="edge"))

    async def _refuse(self, answer: RecognizedFaces) -> None:
        code = "" if answer.error is None else answer.error.code
        await self._intake.answer([answer])
        metrics.MESSAGES.labels(STAGE, "failed").inc()
        _log.info("a frame was refused", request_id=answer.request_id, camera=answer.camera, error=code)


def refusal(payload: bytes, camera: str, error: IntakeError) -> RecognizedFaces:
    """Return the `failed` answer to a payload that is no frame.

    Its request id is the payload's own where one can be read, even from JSON that breaks off later; else the one that a
    raw frame of these bytes would have. `content_sha256` stays empty: the content is not known.
    """
    return RecognizedFaces(
        request_id=_named_id(payload) or raw_frame_id(camera, sha256(payload)),
        status="failed",
        result=FAILED,
        camera=camera,
        source="edge",
        error=Failure(stage=error.stage, code=error.code, detail=error.detail),
    )


def _named_id(payload: bytes) -> str | None:
    try:
        said = from_json(payload, allow_partial=True)
        named = said.get("request_id") if isinstance(said, dict) else None
        return check_request_id(named) if isinstance(named, str) else None
    except ValueError:
        return None
