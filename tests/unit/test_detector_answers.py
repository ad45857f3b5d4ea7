"""What a detector has to say of refused frames while the response queue is away does not fill its disk."""

from pathlib import Path

import pytest

from facewire.domain.errors import QueueError
from facewire_detector import service
from facewire_detector.service import DetectorServiceSettings

BODY = bytes(900_000)


async def test_answers_to_refused_frames_are_bounded_beside_the_inbox(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    settings = DetectorServiceSettings(data_dir=tmp_path, inbox_bytes=1024**2)
    async with service._opened(settings) as parts:
        for _ in range(7):
            await parts.answers.send([BODY] * 10)
        with pytest.raises(QueueError, match=r"answers: .*raise FACEWIRE_INBOX_BYTES") as error:
            await parts.answers.send([BODY] * 10)
    assert error.value.code == "spool_full"
