"""`detect`: a frame that was sent to the Function URL becomes face crops on the request queue.

Event and result are those of Lambda's payload format 2.0.
"""

import asyncio
import binascii
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any

import structlog
from structlog.contextvars import bind_contextvars

from facewire.adapters.aws.sqs.queue import SqsQueues
from facewire.domain.errors import DecodeError, DetectError, FacewireError, IntakeError, QueueError
from facewire.domain.messages import MAX_MESSAGE_BYTES, NO_FACE, DetectedFaces, Frame, FramePayload, no_face, now
from facewire.domain.ports import PartialError, Sender
from facewire.domain.timing import milliseconds_between
from facewire.runtime.loading import load_face_detector
from facewire.stages.detect import FaceDetector
from facewire_lambda.batch import answer_body, send_to_all
from facewire_lambda.emf import Metrics
from facewire_lambda.runtime import Event, Function, Handler
from facewire_lambda.settings import LambdaSettings

#: About 4.5 MB of picture in base64. AWS Lambda takes 6 MiB of event (quotas, synchronous calls), of which headers and
#: the like are a part, and answers more than that itself, without naming a limit.
MAX_BODY_BYTES = 6_000_000

_RETRY_AFTER_SECONDS = "2"
_STEPS = {"decode": "DecodeMs", "detect": "DetectMs", "crop": "CropMs"}

_log = structlog.get_logger(__name__)

Result = dict[str, Any]


class Detect:
    """Answers a POST: 200 with the request id and the number of faces once the next message is sent.

    A frame without a face has its answer, `No-Face`, on the response queues then, if there are any. 400 says what is
    wrong with a body, 413 names a limit, 503 says that the queue is out of reach and the frame is to be sent again, 500
    that there is no such queue or no access to it.
    """

    def __init__(
        self, detector: FaceDetector, *, requests: Sender, responses: Sequence[Sender], metrics: Metrics
    ) -> None:
        self._detector = detector
        self._requests = requests
        self._responses = responses
        self._metrics = metrics

    async def __call__(self, event: Event) -> Result:
        """Return the HTTP response to the request in the event."""
        sent_id: str | None = None
        try:
            frame = await asyncio.to_thread(read_frame, event)
            sent_id = frame.request_id
            bind_contextvars(request_id=sent_id)
            detected = await asyncio.to_thread(self._detect, frame)
            await self._send(detected)
        except (IntakeError, DecodeError, DetectError, QueueError) as error:
            return self._problem(error, sent_id)
        return _accepted(detected)

    def _detect(self, frame: Frame) -> DetectedFaces:
        detected = self._detector(frame)
        self._metrics.count("Frames")
        self._metrics.count("Faces", len(detected.faces))
        self._metrics.time_steps(detected.timings_ms, _STEPS)
        _log.info("faces detected", faces=len(detected.faces), timings_ms=detected.timings_ms)
        return detected

    async def _send(self, detected: DetectedFaces) -> None:
        if not detected.faces:
            total = {"total": milliseconds_between(detected.received_at, now())}
            answer = no_face(detected.model_copy(update={"timings_ms": detected.timings_ms | total}))
            await send_to_all(self._responses, answer_body(answer, DetectError))
            return
        body = await asyncio.to_thread(detected.to_bytes)
        if len(body) > MAX_MESSAGE_BYTES:
            detail = f"the message would have {len(body):,} bytes, a queue takes {MAX_MESSAGE_BYTES:,}"
            raise DetectError("message_too_large", detail)
        try:
            await self._requests.send([body])
        except PartialError as error:
            if not error.refused:
                raise
            detail = f"the request queue does not take a message of {len(body):,} bytes: raise its MaximumMessageSize"
            raise DetectError("message_refused", f"{detail}, or send a smaller picture") from error

    def _problem(self, error: FacewireError, request_id: str | None) -> Result:
        self._metrics.count("Refused")
        _log.warning("a frame was refused", stage=error.stage, code=error.code, detail=error.detail)
        return problem(error, request_id)


def read_frame(event: Event) -> Frame:
    """Return the frame in the body of a request; IntakeError says what is wrong with it."""
    method = event.get("requestContext", {}).get("http", {}).get("method", "")
    if method != "POST":
        raise IntakeError("method_not_allowed", f"{method or 'this'} is not taken here: POST a frame")
    sent = FramePayload.from_bytes(_body(event))
    if sent.enroll_as is not None:
        raise IntakeError("enroll_refused", "enroll_as is not taken here: enrol by a picture under enroll/<person>/")
    return Frame.of(sent.content, request_id=sent.request_id, filename=sent.filename, captured_at=sent.captured_at)


def _body(event: Event) -> bytes:
    body: str = event.get("body") or ""
    if not body:
        raise IntakeError("empty_body", 'the body is empty: send {"request_id", "filename", "content"}')
    if len(body) > MAX_BODY_BYTES:
        detail = f"the body has {len(body):,} bytes, at most {MAX_BODY_BYTES:,} are taken: send a smaller picture"
        raise IntakeError("too_large", f"{detail}, or put it under input/ in the bucket")
    try:
        return binascii.a2b_base64(body, strict_mode=True) if event.get("isBase64Encoded") else body.encode()
    except UnicodeEncodeError as error:
        raise IntakeError("bad_request", "the body is no text in UTF-8: send JSON") from error
    except ValueError as error:
        raise IntakeError("bad_request", f"the body is marked as base64 and is none: {error}") from error


def _accepted(detected: DetectedFaces) -> Result:
    said: dict[str, Any] = {"request_id": detected.request_id, "faces": len(detected.faces), "status": "pending"}
    return _response(HTTPStatus.OK, said if detected.faces else {**said, "status": "done", "result": NO_FACE})


def problem(error: FacewireError, request_id: str | None) -> Result:
    """Return the response that says what went wrong, as problem+json (RFC 9457)."""
    status = _status(error)
    said = {
        "type": "about:blank",
        "title": status.phrase,
        "status": int(status),
        "code": error.code,
        "detail": error.public,
        "request_id": request_id,
        "stage": error.stage,
    }
    headers = {"content-type": "application/problem+json"}
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["allow"] = "POST"
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers["retry-after"] = _RETRY_AFTER_SECONDS
    return _response(status, said, headers)


def _status(error: FacewireError) -> HTTPStatus:
    """Return the status of the error's code; 400 for what cannot be read, as clients of this address know it."""
    status = HTTPStatus(error.kind.status)
    return HTTPStatus.BAD_REQUEST if status == HTTPStatus.UNPROCESSABLE_ENTITY else status


def _response(status: HTTPStatus, said: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Result:
    return {
        "statusCode": int(status),
        "headers": {"content-type": "application/json", **(headers or {})},
        "body": json.dumps(said),
        "isBase64Encoded": False,
    }


def response_queues(settings: LambdaSettings) -> Sequence[str]:
    """Return the queues on which frames without a face are answered.

    There are none where only the request queue is named: earlier deployments tell this function of no other.
    """
    if "response_queues" in settings.model_fields_set or "request_queue" not in settings.model_fields_set:
        return settings.response_queues
    _log.warning("no response queue is named: frames without a face are answered in the HTTP response alone")
    return ()


@Handler
@asynccontextmanager
async def detect(settings: LambdaSettings, metrics: Metrics) -> AsyncIterator[Function]:
    """Open `detect`: the detector and the queues."""
    detector = load_face_detector(settings, threads=settings.threads)
    async with SqsQueues.open(settings) as queues:
        responses = [queues.queue(name) for name in response_queues(settings)]
        yield Detect(detector, requests=queues.queue(settings.request_queue), responses=responses, metrics=metrics)
