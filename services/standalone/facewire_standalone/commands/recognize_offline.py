"""Recognise pictures here and now: no server, no queue, only the gallery of the data folder."""

import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

from facewire.adapters.sqlite.database import Database
from facewire.adapters.sqlite.gallery import SqliteGalleryStore
from facewire.domain.errors import FacewireError
from facewire.domain.gallery import Gallery
from facewire.domain.messages import FAILED, Failure, Frame, RecognizedFaces, no_face
from facewire.work.gallery_sync import GallerySync
from facewire_standalone.commands.answers import summary
from facewire_standalone.commands.client import Picture, readable
from facewire_standalone.settings import StandaloneSettings
from facewire_standalone.stages import Stages, load_stages


async def recognize_files(
    files: Sequence[Path], settings: StandaloneSettings, *, as_json: bool, write: Callable[[str], None]
) -> bool:
    """Write the answer to each file, in their order, as a line for people or of JSON; False if one failed."""
    stages = load_stages(settings)
    gallery = await _gallery(settings, stages)
    fine = True
    for file in files:
        answer = recognize_file(file, stages, gallery)
        write(answer.to_bytes().decode() if as_json else summary(readable(file), answer))
        fine = fine and answer.status == "done"
    return fine


def recognize_file(file: Path, stages: Stages, gallery: Gallery) -> RecognizedFaces:
    """Return the answer to the picture in `file`; a file that is none is answered `failed`."""
    request_id, name = str(uuid.uuid4()), readable(Path(file.name))
    try:
        frame = Frame.of(Picture.read(file).content, request_id=request_id, filename=name)
        detected = stages.detector(frame)
        if not detected.faces:
            return no_face(detected)
        (recognition,) = stages.recognizer([detected], gallery)
    except FacewireError as error:
        failure = Failure.of(error)
        return RecognizedFaces(request_id=request_id, filename=name, status="failed", result=FAILED, error=failure)
    return recognition.answer


async def _gallery(settings: StandaloneSettings, stages: Stages) -> Gallery:
    """Return the enrolled faces of the embedder in use; nobody is enrolled where there is no database yet."""
    embedder = stages.recognizer.embedder
    if not settings.database_file.is_file():
        return Gallery.empty(embedder.spec.dimension)
    async with Database.open(settings.database_file) as database:
        sync = GallerySync(SqliteGalleryStore(database), embedder)
        await sync.embed_again()
        await sync.refresh()
        return sync.gallery
