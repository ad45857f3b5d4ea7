"""The two steps of the state machine: a picture in S3 becomes an answer, and the answer is kept.

`ingest_detect` takes `{"bucket", "key"}` and returns the answer, without crops and embeddings. `ingest_store` takes the
same with that `answer` beside it, or with `error`, what the state machine caught, and records a failure.
"""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import structlog
from structlog.contextvars import bind_contextvars

from facewire.adapters.aws.clients import s3_client
from facewire.domain.archive import CONTENT_TYPE, ProcessedFrame
from facewire.domain.errors import FacewireError, public_text
from facewire.domain.messages import FAILED, Failure, RecognizedFaces
from facewire.domain.ports import ResultStore
from facewire_lambda.emf import Metrics
from facewire_lambda.frames import FrameRecognizer, open_frame_recognizer
from facewire_lambda.pictures import Picture, Pictures, Place
from facewire_lambda.runtime import Event, Function, Handler
from facewire_lambda.settings import LambdaSettings
from facewire_lambda.stores import open_results

#: The stage of each of our own errors, which begins its text.
_STAGES = {kind.__name__: kind.stage for kind in FacewireError.__subclasses__()}
_LONGEST_DETAIL = 1_000

_log = structlog.get_logger(__name__)


class IngestDetect:
    """Recognises the faces of the picture that the event names.

    Raises what is wrong, for the state machine to catch by its name: IntakeError, DecodeError, DetectError and
    RecognizeError are the picture's fault, StoreError passes.
    """

    def __init__(self, pictures: Pictures, recognizer: FrameRecognizer) -> None:
        self._pictures = pictures
        self._recognizer = recognizer

    async def __call__(self, event: Event) -> dict[str, Any]:
        """Return the answer, as JSON."""
        [place] = Place.all_of(event)
        frame = await self._pictures.read(place)
        bind_contextvars(request_id=frame.request_id)
        recognition = await self._recognizer(frame)
        return recognition.answer.model_dump(mode="json", by_alias=True)


class IngestStore:
    """Keeps an answer in the table, and what the table then says under `processed/` in the bucket of the picture.

    So the archive never goes back from a better answer, and has no names that were deleted before it was written.
    """

    def __init__(self, pictures: Pictures, results: ResultStore, metrics: Metrics) -> None:
        self._pictures = pictures
        self._results = results
        self._metrics = metrics

    async def __call__(self, event: Event) -> dict[str, Any]:
        """Return the request id, the status and the key of the object."""
        [place] = Place.all_of(event)
        answer = await self._answer(event, place)
        bind_contextvars(request_id=answer.request_id)
        await self._results.keep([answer])
        known = await self._results.get(answer.request_id)
        answer = answer if known is None or known.answer is None else known.answer
        processed = ProcessedFrame.of(answer)
        await self._pictures.write(Place(place.bucket, processed.key), processed.to_line(), CONTENT_TYPE)
        self._metrics.count("Failed" if answer.status == "failed" else "Done")
        _log.info("an answer was kept", status=answer.status, faces=len(answer.faces), processed=processed.key)
        return {"request_id": answer.request_id, "status": answer.status, "processed": processed.key}

    async def _answer(self, event: Event, place: Place) -> RecognizedFaces:
        if "error" not in event:
            return RecognizedFaces.model_validate(event["answer"])
        picture = await self._pictures.look(place)
        return failed_picture(picture, failure_of(event["error"]))


def failed_picture(picture: Picture, failure: Failure) -> RecognizedFaces:
    """Return the answer to a picture that came to nothing."""
    return RecognizedFaces(
        request_id=picture.request_id,
        filename=picture.filename,
        status="failed",
        result=FAILED,
        camera=picture.place.camera,
        received_at=picture.put_at,
        error=failure,
    )


def failure_of(caught: dict[str, Any]) -> Failure:
    """Return what a state machine caught: `Error`, a name, and `Cause`, of a function JSON with `errorMessage`.

    Errors of our own have stage, code and detail in that message; of others there is the name alone.
    """
    name = str(caught.get("Error", "unknown"))
    stage, *rest = _message_of(str(caught.get("Cause", ""))).split(": ", len(("code", "detail")))
    if stage == _STAGES.get(name) and len(rest) == len(("code", "detail")):
        code, detail = rest
        return Failure(stage=stage, code=code, detail=public_text(code, detail)[:_LONGEST_DETAIL])
    return Failure(stage="ingest", code=name, detail="the state machine gave up: its history says more")


def _message_of(cause: str) -> str:
    try:
        said = json.loads(cause)
    except ValueError:
        return cause
    return str(said.get("errorMessage", "")) if isinstance(said, dict) else cause


@Handler
@asynccontextmanager
async def ingest_detect(settings: LambdaSettings, metrics: Metrics) -> AsyncIterator[Function]:
    """Open `ingest_detect`: both models, the gallery and S3."""
    async with open_frame_recognizer(settings, metrics) as recognizer, s3_client(settings) as client:
        yield IngestDetect(Pictures(client), recognizer)


@Handler
@asynccontextmanager
async def ingest_store(settings: LambdaSettings, metrics: Metrics) -> AsyncIterator[Function]:
    """Open `ingest_store`: S3 and the results."""
    async with open_results(settings) as results, s3_client(settings) as client:
        yield IngestStore(Pictures(client), results, metrics)
