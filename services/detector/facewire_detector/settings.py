"""The settings of the detector as a service of its own."""

from pathlib import Path

from pydantic import Field

from facewire.runtime.settings import LONGEST_WAIT_SECONDS, AwsSettings, DetectorSettings, ProbeSettings


class DetectorServiceSettings(DetectorSettings, AwsSettings, ProbeSettings):
    """How frames are taken in, how faces are found in them, and where both go.

    A frame that is older than `answer_deadline_seconds` is not looked at any more: the gateway has called it lost.

    `data_dir` holds the inbox and the slots. Detectors on one broker share it: each takes a slot there, and any of them
    works on any frame of the inbox.
    """

    data_dir: Path = Path("facewire-data")
    answer_deadline_seconds: float = Field(default=600.0, gt=0, le=LONGEST_WAIT_SECONDS)
