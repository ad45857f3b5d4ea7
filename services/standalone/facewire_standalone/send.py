"""Send pictures over HTTP or, as a camera does, over MQTT, and print the answers."""

import asyncio
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from facewire.messages import RecognizedFaces
from facewire.settings import MqttSettings
from facewire_standalone.answers import summary
from facewire_standalone.camera import Camera
from facewire_standalone.client import LONGEST_WAIT, Client, ClientError, Picture

_CONCURRENCY = 4


@dataclass(frozen=True, slots=True)
class Sending:
    """How pictures are sent: whether to wait for the answers, for how long (seconds) and where to print them."""

    wait: bool
    seconds: float
    as_json: bool
    write: Callable[[str], None]

    def show(self, name: str, answer: RecognizedFaces) -> None:
        """Print one answer."""
        self.write(answer.to_bytes().decode() if self.as_json else summary(name, answer))

    def unanswered(self, name: str, request_id: str) -> None:
        """Print that no answer came in time."""
        self.write(f"{name}: no answer within {self.seconds:g} s, request {request_id}")


async def send_over_http(files: Sequence[Path], sending: Sending, *, url: str, key: str | None, camera: str) -> bool:
    """Send each file to the HTTP API; False if one was refused, failed or not answered in time."""
    slots = asyncio.Semaphore(_CONCURRENCY)

    async def attempt(client: Client, file: Path) -> bool:
        async with slots:
            return await _send_one(client, file, sending, camera)

    async with Client.open(url, key) as client, asyncio.TaskGroup() as group:
        tasks = [group.create_task(attempt(client, file), name=f"send {file.name}") for file in files]
    return all(task.result() for task in tasks)


async def _send_one(client: Client, file: Path, sending: Sending, camera: str) -> bool:
    request_id = str(uuid.uuid4())
    try:
        await client.submit(Picture.read(file), request_id=request_id, camera=camera)
        if not sending.wait:
            sending.write(f"{file.name}: sent, request {request_id}")
            return True
        answer = await wait_for_answer(client, request_id, sending.seconds)
    except ClientError as error:
        if error.concerns_every_call:
            raise
        sending.write(f"{file.name}: {error}")
        return False
    if answer is None:
        sending.unanswered(file.name, request_id)
        return False
    sending.show(file.name, answer)
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
    """Publish each file on `clients/<camera>`; False if one failed or was not answered in time."""
    requests = {str(uuid.uuid4()): file for file in files}
    async with Camera.open(settings, camera) as device:
        for request_id, file in requests.items():
            await device.send(Picture.read(file), request_id)
        if not sending.wait:
            for request_id, file in requests.items():
                sending.write(f"{file.name}: sent, request {request_id}")
            return True
        return await _show_answers(device, requests, sending)


async def _show_answers(device: Camera, requests: Mapping[str, Path], sending: Sending) -> bool:
    waiting = dict(requests)
    fine = True
    try:
        async with asyncio.timeout(sending.seconds):
            async for answer in device.answers():
                if file := waiting.pop(answer.request_id, None):
                    sending.show(file.name, answer)
                    fine = fine and answer.status == "done"
                if not waiting:
                    return fine
    except TimeoutError:
        for request_id, file in waiting.items():
            sending.unanswered(file.name, request_id)
    return False
