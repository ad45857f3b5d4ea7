"""Send pictures over HTTP or, as a camera does, over MQTT, and print the answers."""

import asyncio
import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from facewire.domain.errors import SettingsError
from facewire.domain.messages import RecognizedFaces
from facewire.domain.names import check_camera
from facewire.runtime.settings import MqttSettings
from facewire_standalone.commands.answers import summary
from facewire_standalone.commands.camera import Camera
from facewire_standalone.commands.client import LONGEST_WAIT, Client, ClientError, Picture, readable

_CONCURRENCY = 4


@dataclass(frozen=True, slots=True)
class Sending:
    """How pictures are sent: whether to wait for the answers, for how long (seconds), and where lines are written.

    `write` takes what became of a picture, as words or as JSON, `complain` why nothing did: words in any case.
    """

    wait: bool
    seconds: float
    as_json: bool
    write: Callable[[str], None]
    complain: Callable[[str], None]

    def show(self, name: str, answer: RecognizedFaces) -> None:
        """Print one answer."""
        self.write(answer.to_bytes().decode() if self.as_json else summary(name, answer))

    def sent(self, name: str, request_id: str) -> None:
        """Print that a picture is sent and nobody waits for its answer."""
        pending = {"request_id": request_id, "filename": name, "status": "pending"}
        words = f"{name}: sent, request {request_id}"
        self.write(json.dumps(pending, ensure_ascii=False) if self.as_json else words)

    def refused(self, name: str, error: ClientError) -> None:
        """Tell why a picture was not taken."""
        self.complain(f"{name}: {error}")

    def unanswered(self, name: str, request_id: str) -> None:
        """Tell that no answer came in time."""
        self.complain(f"{name}: no answer within {self.seconds:g} s, request {request_id}")


async def send_over_http(files: Sequence[Path], sending: Sending, *, url: str, key: str | None, camera: str) -> bool:
    """Send each file to the HTTP API; False if one was refused, failed or not answered in time.

    SettingsError for a camera that is no name, ClientError where the API cannot be reached or refuses the key.
    """
    _check(camera)
    slots = asyncio.Semaphore(_CONCURRENCY)

    async def attempt(client: Client, file: Path) -> bool:
        async with slots:
            return await _send_one(client, file, sending, camera)

    async with Client.open(url, key) as client, asyncio.TaskGroup() as group:
        tasks = [group.create_task(attempt(client, file), name=f"send {file.name}") for file in files]
    return all(task.result() for task in tasks)


async def _send_one(client: Client, file: Path, sending: Sending, camera: str) -> bool:
    request_id, name = str(uuid.uuid4()), readable(Path(file.name))
    try:
        await client.submit(Picture.read(file), request_id=request_id, camera=camera)
        if not sending.wait:
            sending.sent(name, request_id)
            return True
        answer = await wait_for_answer(client, request_id, sending.seconds)
    except ClientError as error:
        if error.concerns_every_call:
            raise
        sending.refused(name, error)
        return False
    if answer is None:
        sending.unanswered(name, request_id)
        return False
    sending.show(name, answer)
    return answer.status == "done"


async def wait_for_answer(client: Client, request_id: str, seconds: float) -> RecognizedFaces | None:
    """Return the answer to a request, None if there is none within `seconds`."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while (left := deadline - loop.time()) > 0:
        if answer := await client.result(request_id, wait=min(left, LONGEST_WAIT)):
            return answer
    return None


async def send_over_mqtt(files: Sequence[Path], sending: Sending, *, settings: MqttSettings, camera: str) -> bool:
    """Publish each file on `clients/<camera>`; False if one could not be read, failed or was not answered in time.

    SettingsError for a camera that is no name, ClientError or QueueError where the broker cannot be reached.
    """
    _check(camera)
    async with Camera.open(settings, camera) as device:
        published = await _publish(device, files, sending)
        answered = await _show_answers(device, published, sending) if sending.wait and published else True
    return answered and len(published) == len(files)


def _check(camera: str) -> None:
    try:
        check_camera(camera)
    except ValueError as error:
        raise SettingsError("camera", f"{camera!r} {error}") from error


async def _publish(device: Camera, files: Sequence[Path], sending: Sending) -> dict[str, str]:
    """Return the names of the files that were published, by request id."""
    published: dict[str, str] = {}
    for file in files:
        request_id, name = str(uuid.uuid4()), readable(Path(file.name))
        try:
            picture = Picture.read(file)
        except ClientError as error:
            sending.refused(name, error)
            continue
        await device.send(picture, request_id)
        published[request_id] = name
        if not sending.wait:
            sending.sent(name, request_id)
    return published


async def _show_answers(device: Camera, names: Mapping[str, str], sending: Sending) -> bool:
    waiting = dict(names)
    fine = True
    try:
        async with asyncio.timeout(sending.seconds):
            async for answer in device.answers():
                if name := waiting.pop(answer.request_id, None):
                    sending.show(name, answer)
                    fine = fine and answer.status == "done"
                if not waiting:
                    return fine
    except TimeoutError:
        for request_id, name in waiting.items():
            sending.unanswered(name, request_id)
    return False
