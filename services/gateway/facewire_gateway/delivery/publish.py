"""Answers on their way to cameras, over MQTT: bounded, tried again for a while, and never in the way of the store."""

import asyncio
from collections.abc import Sequence
from typing import Protocol

import structlog

from facewire.domain.errors import QueueError
from facewire.domain.messages import RecognizedFaces
from facewire.domain.names import check_camera
from facewire.runtime.backoff import growing_pauses
from facewire_gateway import metrics

_log = structlog.get_logger(__name__)

#: Answers that are under way to the broker at a time: waiting for one PUBACK after the other, a busy broker would
#: take a few a second.
LANES = 8
#: Answers that wait in one lane; an answer has about 1 kB, 20 kB with 32 faces.
MAX_WAITING = 250
#: A camera that has waited this long for an answer has given up.
DEADLINE_SECONDS = 60.0
_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 2.0


#: Deadlines, in seconds of the event loop's clock, and answers.
_Lane = asyncio.Queue[tuple[float, RecognizedFaces]]


class Publisher(Protocol):
    """The MQTT connection, as far as it is needed here."""

    async def publish(self, topic: str, payload: bytes) -> None:
        """Return when the broker has the message; QueueError where it has not."""


class ResultPublisher:
    """Publishes answers to `clients/<camera>/results`, several at once, those to one camera in order.

    What is not delivered is counted; the store has it. Answers without a camera go to `uploads/<request id>/results`
    where `uploads` says so, for other replicas to hear.
    """

    def __init__(
        self, connection: Publisher, *, uploads: bool = False, deadline_seconds: float = DEADLINE_SECONDS
    ) -> None:
        self._connection = connection
        self._uploads = uploads
        self._deadline_seconds = deadline_seconds
        self._lanes: list[_Lane] = [asyncio.Queue(MAX_WAITING) for _ in range(LANES)]

    async def __call__(self, answers: Sequence[RecognizedFaces]) -> None:
        """Take `answers` to be published; returns at once."""
        deadline = asyncio.get_running_loop().time() + self._deadline_seconds
        for answer in answers:
            if answer.camera is None and not self._uploads:
                continue
            try:
                self._lane(answer).put_nowait((deadline, answer))
            except asyncio.QueueFull:
                _note_dropped(answer, "queue_full")

    async def run(self) -> None:
        """Publish until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for number, lane in enumerate(self._lanes):
                tasks.create_task(self._run(lane), name=f"publisher {number}")

    async def flush(self) -> None:
        """Wait until everything taken so far is published or dropped; bound it with `asyncio.timeout`."""
        for lane in self._lanes:
            await lane.join()

    def _lane(self, answer: RecognizedFaces) -> _Lane:
        """Return where the answer waits behind all earlier ones to its camera."""
        return self._lanes[hash(answer.camera or answer.request_id) % LANES]

    async def _run(self, lane: _Lane) -> None:
        while True:
            deadline, answer = await lane.get()
            try:
                await self._deliver(answer, deadline)
            finally:
                lane.task_done()

    async def _deliver(self, answer: RecognizedFaces, deadline: float) -> None:
        try:
            topic = _topic(answer)
        except ValueError:
            _note_dropped(answer, "bad_camera")
            return
        try:
            async with asyncio.timeout_at(deadline):
                await self._persist(topic, answer.to_bytes())
        except TimeoutError:
            _note_dropped(answer, "too_late")
        else:
            metrics.PUBLISHED.labels("done").inc()

    async def _persist(self, topic: str, payload: bytes) -> None:
        for pause in growing_pauses(_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS):
            try:
                await self._connection.publish(topic, payload)
            except QueueError:
                metrics.PUBLISHED.labels("retried").inc()
                await asyncio.sleep(pause)
            else:
                return


def _topic(answer: RecognizedFaces) -> str:
    if answer.camera is None:
        return f"uploads/{answer.request_id}/results"
    return f"clients/{check_camera(answer.camera)}/results"


def _note_dropped(answer: RecognizedFaces, reason: str) -> None:
    metrics.PUBLISHED.labels(reason).inc()
    _log.warning("an answer was not published", request_id=answer.request_id, reason=reason)
