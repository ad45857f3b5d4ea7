from pathlib import Path
from typing import cast

import pytest

from facewire.adapters.sqlite.spool import FrameIntake
from facewire.domain.errors import QueueError
from facewire.domain.messages import Frame
from facewire.stages.detect import FaceDetector
from facewire_greengrass import pipeline
from facewire_greengrass.configuration import Prepared
from facewire_greengrass.frames import IpcFrames
from facewire_greengrass.nucleus import Nucleus
from facewire_greengrass.pipeline import open_pipeline
from facewire_greengrass.settings import ComponentSettings

MIB = 1024**2


class NobodysNucleus:
    """Takes a subscription, and is not asked for anything else."""

    async def subscribe(self, _subscription: object) -> None:
        return None


def frame(request_id: str, size: int) -> Frame:
    return Frame.of(b"\xff\xd8" + bytes(size), request_id=request_id, camera="door")


async def test_answers_to_refused_frames_are_bounded_beside_a_full_inbox(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQS is away for days, every frame is refused: the disk must not fill with what is to be said of them."""
    monkeypatch.setattr(pipeline, "REFUSALS_BYTES", MIB)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    settings = ComponentSettings(data_dir=tmp_path, inbox_bytes=MIB, inbox_policy="latest")
    nucleus = cast("Nucleus", NobodysNucleus())
    prepared = Prepared(settings, cast("FaceDetector", None))
    async with open_pipeline(prepared, nucleus, IpcFrames(nucleus)) as opened:
        intake = FrameIntake(opened.inbox, opened.refusals)
        await intake.accept(frame("first", 700_000))
        await opened.refusals.send([bytes(900_000)])
        with pytest.raises(QueueError, match=r"refusals: .*raise inbox_bytes") as error:
            await opened.refusals.send([bytes(900_000)])
        assert [dropped.request_id for dropped in await intake.accept(frame("second", 700_000))] == ["first"]
        held = sum([(await queue.depth()).bytes for queue in (opened.inbox, opened.refusals)])
        await opened.refusals.send([bytes(2 * MIB - held)])
        with pytest.raises(QueueError, match="spool_full"):
            await intake.accept(frame("third", 700_000))
    assert error.value.code == "spool_full"
