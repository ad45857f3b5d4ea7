"""The settings of the detector as a service of its own."""

from pathlib import Path

from facewire.runtime.settings import AwsSettings, DetectorSettings, ProbeSettings


class DetectorServiceSettings(DetectorSettings, AwsSettings, ProbeSettings):
    """How frames are taken in, how faces are found in them, and where both go.

    `data_dir` holds the inbox and the slots. Detectors on one broker share it: each takes a slot there, and any of them
    works on any frame of the inbox.
    """

    data_dir: Path = Path("facewire-data")
