"""`enroll`: a picture under `enroll/<person>/` enrols the person, with the checks of every enrolment."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import structlog
from structlog.contextvars import bind_contextvars

from facewire.adapters.aws.clients import s3_client
from facewire.domain.messages import Enrolled
from facewire_lambda.emf import Metrics
from facewire_lambda.frames import FrameRecognizer, open_frame_recognizer
from facewire_lambda.pictures import Pictures, Place
from facewire_lambda.runtime import Event, Function, Handler
from facewire_lambda.settings import LambdaSettings

_log = structlog.get_logger(__name__)


class Enroll:
    """Enrols the people whose pictures the event names.

    What cannot be read or names nobody is raised: AWS tries again and then keeps the event for whoever looks after it.
    A picture that is refused is logged with the reasons, and the result holds them.
    """

    def __init__(self, pictures: Pictures, recognizer: FrameRecognizer, metrics: Metrics) -> None:
        self._pictures = pictures
        self._recognizer = recognizer
        self._metrics = metrics

    async def __call__(self, event: Event) -> list[dict[str, Any]]:
        """Return the outcome of each picture: person, face id or reasons; folders have none."""
        places = [place for place in Place.all_of(event) if not place.is_folder]
        return [(await self._enrol(place)).model_dump(mode="json") for place in places]

    async def _enrol(self, place: Place) -> Enrolled:
        frame = await self._pictures.read(place, enroll_as=place.person)
        bind_contextvars(request_id=frame.request_id)
        enrolled = (await self._recognizer(frame)).answer.enrolled
        assert enrolled is not None  # noqa: S101 - every frame with `enroll_as` has an outcome
        self._metrics.count("Refused" if enrolled.face_id is None else "Enrolled")
        note = _log.warning if enrolled.face_id is None else _log.info
        note("an enrolment", face_id=enrolled.face_id, refused=enrolled.refused)
        return enrolled


@Handler
@asynccontextmanager
async def enroll(settings: LambdaSettings, metrics: Metrics) -> AsyncIterator[Function]:
    """Open `enroll`: both models, the gallery and S3."""
    settings.required_gallery()
    async with open_frame_recognizer(settings, metrics) as recognizer, s3_client(settings) as client:
        yield Enroll(Pictures(client), recognizer, metrics)
