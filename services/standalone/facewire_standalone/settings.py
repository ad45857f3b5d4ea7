"""The settings of the standalone process: those of the three services, the data folder and the broker's password file.

`mqtt_host` and `mqtt_port` say where the embedded broker listens, `mqtt_backlog_bytes` how much it holds of frames that
intake has not taken yet; it costs up to 1.5 times as much memory.
"""

import os
import sys
from pathlib import Path
from typing import Literal

from pydantic import Field

from facewire.runtime.settings import DetectorSettings, GatewaySettings, RecognizerSettings


def default_data_dir() -> Path:
    """Return `$XDG_STATE_HOME/facewire`, `~/.local/state/facewire` where that is not set (XDG Base Directory 0.8)."""
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local" / "state") / "facewire"


def default_log_format() -> Literal["json", "console"]:
    """Return the form of the log that suits standard error: for people on a terminal, JSON anywhere else."""
    return "console" if sys.stderr.isatty() else "json"


class StandaloneSettings(DetectorSettings, RecognizerSettings, GatewaySettings):
    """How all of Facewire runs in one process, under one data folder."""

    log_format: Literal["json", "console"] = Field(default_factory=default_log_format)
    data_dir: Path = Field(default_factory=default_data_dir)
    mqtt_password_file: Path | None = None
    mqtt_backlog_bytes: int = Field(default=128 * 1024**2, ge=16 * 1024**2)

    @property
    def database_file(self) -> Path:
        """Return the one file that holds inbox, queues, results and gallery."""
        return self.data_dir / "facewire.db"

    @property
    def keys_path(self) -> Path:
        """Return the file of the API keys: the setting, else `keys.json` in the data folder."""
        return self.keys_file or self.data_dir / "keys.json"
