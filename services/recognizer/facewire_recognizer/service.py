"""The recognizer as a service: beside queues and a gallery, one of as many replicas as one likes."""

import asyncio

import structlog

from facewire.adapters.aws.sqs.queue import SqsQueues
from facewire.adapters.data_folder import enroll_key
from facewire.adapters.stores import open_stores
from facewire.domain.errors import SettingsError
from facewire.runtime.probes import serving_probes
from facewire.runtime.readiness import Depth, Readiness, still_loading
from facewire.runtime.settings import ProbeSettings, RecognizerSettings, StoreSettings
from facewire_recognizer.worker import load_face_recognizer, run_recognizer

_log = structlog.get_logger(__name__)


class RecognizerServiceSettings(RecognizerSettings, StoreSettings, ProbeSettings):
    """Which embedder names the faces, where they come from, and where the gallery is."""


async def run_recognizer_service(settings: RecognizerServiceSettings, stop: asyncio.Event) -> None:
    """Recognise until `stop` is set; then finish what is in flight, and leave the rest to the others.

    SettingsError or ModelError where it cannot start, StoreError where the gallery cannot be read at the start. A queue
    out of reach is waited for: `/readyz` names it.
    """
    readiness: dict[str, Readiness] = {"models": still_loading}
    depths: dict[str, Depth] = {}
    async with serving_probes(settings, readiness=readiness, depths=depths) as url:
        _log.info("probes are answered", url=url)
        recognizer = await asyncio.to_thread(load_face_recognizer, settings)
        async with open_stores(settings) as (results, gallery), SqsQueues.open(settings) as queues:
            requests, responses = queues.queue(settings.request_queue), queues.queue(settings.response_queue)

            async def queue_lacks() -> str | None:
                for queue in (requests, responses):
                    await queue.depth()
                return None

            async def gallery_lacks() -> str | None:
                await gallery.version()
                return None

            depths[requests.name] = requests.depth
            readiness |= {"queue": queue_lacks, "gallery": gallery_lacks}
            del readiness["models"]
            await run_recognizer(
                settings,
                requests=requests,
                responses=responses,
                recognizer=recognizer,
                gallery_store=gallery,
                enroll_key=_enroll_key(settings),
                results=results,
                stop=stop,
            )


def _enroll_key(settings: RecognizerServiceSettings) -> bytes | None:
    """Return the key of enrolments; None where there is none, as in a container that may write nowhere."""
    try:
        return enroll_key(settings.data_dir, settings.enroll_key)
    except SettingsError as error:
        _log.warning("enrolments are refused: there is no key", error=error.code, detail=error.detail)
        return None
