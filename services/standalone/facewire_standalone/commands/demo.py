"""The demo: everything started in a temporary folder, two people enrolled and recognised, every answer checked."""

import asyncio
import io
import os
import signal
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageEnhance, ImageOps
from rich.console import Console
from rich.table import Table
from rich.text import Text

from facewire.domain.errors import SettingsError
from facewire.domain.messages import NO_FACE, UNKNOWN, RecognizedFaces, sha256
from facewire.domain.names import raw_frame_id
from facewire.runtime.settings import MqttSettings
from facewire_standalone.child import Child, running_child
from facewire_standalone.commands.answers import STAGES, milliseconds, reason, similarity
from facewire_standalone.commands.camera import Camera
from facewire_standalone.commands.client import Client, ClientError, Picture
from facewire_standalone.commands.send import wait_for_answer

FIRST, SECOND = "Collins", "Hopper"
CAMERA = "demo"
_ANSWER_SECONDS = 30.0
_TABLE_WIDTH = 120
_HYPHENATED = {"decode": "de-\ncode", "detect": "de-\ntect"}


@dataclass(frozen=True, slots=True)
class Row:
    """What was sent and how, what came back and what had to."""

    sent: str
    way: str
    expected: str
    answer: RecognizedFaces

    @property
    def right(self) -> bool:
        """Tell whether the answer is the expected one; an unknown face has to come with its reason."""
        if self.answer.status != "done" or self.answer.result != self.expected:
            return False
        return self.expected != UNKNOWN or bool(reason(self.answer))


def samples_dir() -> Path:
    """Return the folder of the pictures that ship: inside the installed package, or `samples` of the source tree."""
    package = Path(__file__).resolve().parents[1]
    packaged = package / "_samples"
    return packaged if packaged.is_dir() else package.parents[2] / "samples"


def run_demo(console: Console) -> bool:
    """Run the demo and print its table; return whether every answer is right."""
    started = time.monotonic()
    _forget_settings()
    with _stopped_by_sigterm(), tempfile.TemporaryDirectory(prefix="facewire-demo-") as folder:
        console.print("Starting Facewire in a temporary folder.")
        with running_child(Path(folder)) as child:
            console.print(f"It answers at {child.http_url} and mqtt://{child.mqtt_host}:{child.mqtt_port}.")
            rows = asyncio.run(Journey.through(child))
    _table_console(console).print(_table(rows))
    right = sum(row.right for row in rows)
    seconds = time.monotonic() - started
    console.print("raw: published over MQTT as a bare picture, not as JSON")
    console.print(f"{right} of {len(rows)} answers are right, in {seconds:.1f} s.", highlight=False)
    return right == len(rows)


class Journey:
    """The demo's pictures on their way, over HTTP and over MQTT."""

    def __init__(self, client: Client, camera: Camera) -> None:
        self._client = client
        self._camera = camera
        self._rows: list[Row] = []

    @classmethod
    async def through(cls, child: Child) -> list[Row]:
        """Send everything to the running `child` and return the rows of the table."""
        first, second, nobody = (_sample(name) for name in ("eileen_collins.jpg", "grace_hopper.jpg", "cat.jpg"))
        settings = MqttSettings.read(mqtt_host=child.mqtt_host, mqtt_port=child.mqtt_port)
        async with Client.open(child.http_url) as client, Camera.open(settings, CAMERA) as camera:
            journey = cls(client, camera)
            await journey._enroll(FIRST, first)
            for view, picture in changed_views(first).items():
                await journey._both_ways(f"{FIRST} {view}", picture, FIRST)
            await journey._both_ways("a cat", nobody, NO_FACE)
            await journey._both_ways(f"{SECOND} stranger", second, UNKNOWN)
            await journey._enroll(SECOND, second)
            await journey._both_ways(f"{SECOND} enrolled", second, SECOND)
            await journey._raw(f"{SECOND} mirrored", changed_views(second)["mirrored"], SECOND)
        return journey._rows

    async def _enroll(self, person: str, picture: Picture) -> None:
        face = await self._client.enroll(person, picture)
        if face is None or face.refused:
            reasons = "no answer within 30 s" if face is None else ", ".join(face.refused)
            raise ClientError("not_enrolled", f"{person} could not be enrolled: {reasons}")

    async def _both_ways(self, sent: str, picture: Picture, expected: str) -> None:
        request_id = str(uuid.uuid4())
        await self._client.submit(picture, request_id=request_id)
        answer = await wait_for_answer(self._client, request_id, _ANSWER_SECONDS)
        if answer is None:
            raise ClientError("no_answer", f"no answer to {sent} over HTTP within {_ANSWER_SECONDS:g} s")
        self._rows.append(Row(sent, "HTTP", expected, answer))
        request_id = str(uuid.uuid4())
        await self._camera.send(picture, request_id)
        self._rows.append(Row(sent, "MQTT", expected, await self._published(request_id, sent)))

    async def _raw(self, sent: str, picture: Picture, expected: str) -> None:
        await self._camera.send_raw(picture.content)
        request_id = raw_frame_id(CAMERA, sha256(picture.content))
        self._rows.append(Row(sent, "raw", expected, await self._published(request_id, sent)))

    async def _published(self, request_id: str, sent: str) -> RecognizedFaces:
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                async for answer in self._camera.answers():
                    if answer.request_id == request_id:
                        return answer
        except TimeoutError as error:
            detail = f"no answer to {sent} over MQTT within {_ANSWER_SECONDS:g} s"
            raise ClientError("no_answer", detail) from error
        raise ClientError("no_answer", f"the broker ended the connection before {sent} was answered")


def _sample(name: str) -> Picture:
    path = samples_dir() / name
    if not path.is_file():
        raise SettingsError("no_samples", f"{path} is missing: run the demo from a whole checkout or package")
    return Picture.read(path)


def _table(rows: list[Row]) -> Table:
    title = "What was sent and what came back (times in ms)"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in ("sent", "way", "answer", "expected", "cosine", "reason"):
        table.add_column(heading, overflow="fold", no_wrap=heading not in {"sent", "reason"})
    for stage in STAGES:
        table.add_column(_HYPHENATED.get(stage, stage), justify="right", no_wrap=True)
    table.add_column("ok", no_wrap=True)
    for row in rows:
        answer = row.answer
        times = (milliseconds(answer, stage) for stage in STAGES)
        verdict = Text("yes", "green") if row.right else Text("NO", "bold red")
        words = (row.sent, row.way, answer.result, row.expected, similarity(answer), reason(answer), *times)
        table.add_row(*map(Text, words), verdict)
    return table


def _table_console(console: Console) -> Console:
    """Return a console as wide as the table where nothing says how wide it is: a file, a pipe."""
    return console if console.is_terminal else Console(file=console.file, width=_TABLE_WIDTH)


def _forget_settings() -> None:
    """Show the defaults, whatever the environment says for a Facewire of this machine's own."""
    for name in [name for name in os.environ if name.startswith("FACEWIRE_")]:
        del os.environ[name]


@contextmanager
def _stopped_by_sigterm() -> Iterator[None]:
    """Let SIGTERM end the demo as Ctrl-C does, so that its child and its folder go with it."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def changed_views(picture: Picture) -> dict[str, Picture]:
    """Return the picture mirrored, darker, turned by 6 degrees, at 60 % of its size, and as a small WebP file."""
    with Image.open(io.BytesIO(picture.content)) as image:
        portrait = image.convert("RGB")
    views = {name: _jpeg(change(portrait), name) for name, change in _CHANGES.items()}
    return {**views, "as WebP": _encode(portrait, "as WebP.webp", "WEBP", quality=40)}


def _darker(image: Image.Image) -> Image.Image:
    return ImageEnhance.Brightness(image).enhance(0.6)


def _turned(image: Image.Image) -> Image.Image:
    return image.rotate(6, resample=Image.Resampling.BICUBIC, fillcolor=(128, 128, 128))


def _smaller(image: Image.Image) -> Image.Image:
    return ImageOps.scale(image, 0.6)


_CHANGES: Mapping[str, Callable[[Image.Image], Image.Image]] = {
    "mirrored": ImageOps.mirror,
    "darker": _darker,
    "turned": _turned,
    "smaller": _smaller,
}


def _jpeg(image: Image.Image, name: str) -> Picture:
    return _encode(image, f"{name}.jpg", "JPEG", quality=90)


def _encode(image: Image.Image, name: str, image_format: str, *, quality: int) -> Picture:
    buffer = io.BytesIO()
    image.save(buffer, image_format, quality=quality)
    return Picture(name, buffer.getvalue())
