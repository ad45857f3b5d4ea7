"""The detector's work: frames of the inbox become face crops on the request queue, or `No-Face` answers."""

import asyncio
import math
from collections.abc import Sequence
from concurrent.futures import Executor
from typing import ClassVar

import structlog

from facewire.domain.errors import DetectError, FacewireError
from facewire.domain.messages import DetectedFaces, Frame, Source, no_face, now
from facewire.domain.ports import Queue
from facewire.domain.timing import SETTLE_SECONDS, SettledClock, milliseconds_between
from facewire.runtime import metrics
from facewire.runtime.settings import DetectorSettings
from facewire.stages.detect import FaceDetector
from facewire.work.consumer import Policy, consume, worker_threads
from facewire.work.handler import Done, Message, Outcome, Outgoing, Stage

_STEPS = ("inbox", "decode", "detect", "crop")

_log = structlog.get_logger()


async def run_detector(  # noqa: PLR0913 - what the service stands on, all by keyword
    settings: DetectorSettings,
    *,
    inbox: Queue,
    requests: Queue,
    responses: Queue,
    detector: FaceDetector,
    stop: asyncio.Event,
    lease_seconds: float = 30.0,
    deadline_seconds: float | None = None,
    shared_threads: Executor | None = None,
) -> None:
    """Detect the faces of the inbox's frames, up to `detector_threads` at a time, until `stop` is set, then drain.

    Frames received more than `deadline_seconds` ago are answered `failed: lost` instead. It has as many threads of its
    own unless it is given some that it shares.
    """
    threads = settings.detector_threads
    policy = Policy(
        # One frame more than there are threads waits in the executor, so that no thread waits for the event loop.
        concurrency=threads + 1,
        prefetch=2 * threads,
        lease_seconds=lease_seconds,
        drain_seconds=settings.drain_seconds,
    )
    async with worker_threads(threads, "detect", shared=shared_threads) as executor:
        stage = DetectStage(
            detector, executor, requests=requests, responses=responses, deadline_seconds=deadline_seconds
        )
        await consume(inbox, stage, policy, stop)


class DetectStage(Stage[Frame]):
    """Frame -> DetectedFaces for the recognizer, or the answer `No-Face`, which needs no recognizer."""

    error: ClassVar[type[FacewireError]] = DetectError
    source: ClassVar[Source] = "edge"

    def __init__(
        self,
        detector: FaceDetector,
        executor: Executor,
        *,
        requests: Queue,
        responses: Queue,
        deadline_seconds: float | None = None,
    ) -> None:
        super().__init__(responses)
        self._detector = detector
        self._executor = executor
        self._requests = requests
        self._deadline = math.inf if deadline_seconds is None else deadline_seconds
        self._clock = SettledClock(max(SETTLE_SECONDS, deadline_seconds or 0.0))

    def read(self, body: bytes) -> Frame:
        """Return the frame in `body`; IntakeError where there is none."""
        return Frame.from_bytes(body)

    async def handle(self, messages: Sequence[Message[Frame]]) -> Sequence[Outcome]:
        """Detect the faces of each frame, in the executor: reading a frame takes milliseconds as well."""
        loop = asyncio.get_running_loop()
        return [Done(await loop.run_in_executor(self._executor, self._detect, message)) for message in messages]

    def _detect(self, message: Message[Frame]) -> Sequence[Outgoing]:
        frame = message.content
        if (self._clock() - frame.received_at).total_seconds() >= self._deadline:
            detail = f"no detector came to it within {self._deadline:g} s: send the frame again"
            return self.failure(message, DetectError("lost", detail))
        detected = self._detector(frame)
        metrics.observe_steps("detect", detected.timings_ms, _STEPS)
        facts = {"faces": len(detected.faces), "dropped": detected.faces_dropped, "timings_ms": detected.timings_ms}
        _log.debug("faces detected", request_id=detected.request_id, **facts)
        if detected.faces:
            return [Outgoing(self._requests, detected.to_bytes())]
        return self.answer(no_face(_with_total(detected)))


def _with_total(detected: DetectedFaces) -> DetectedFaces:
    total = milliseconds_between(detected.received_at, now())
    return detected.model_copy(update={"timings_ms": detected.timings_ms | {"total": total}})
