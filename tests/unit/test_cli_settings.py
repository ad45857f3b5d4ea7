"""Settings of the standalone process and what the command line says of wrong ones."""

import sys
from pathlib import Path

import pytest

from facewire.domain.errors import SettingsError
from facewire_standalone.settings import StandaloneSettings


def test_the_data_folder_follows_the_xdg_standard(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert StandaloneSettings.read().data_dir == tmp_path / "facewire"
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert StandaloneSettings.read().data_dir == tmp_path / ".local" / "state" / "facewire"


def test_what_is_given_goes_before_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FACEWIRE_PORT", "9000")
    monkeypatch.setenv("FACEWIRE_DETECTOR_THREADS", "3")
    settings = StandaloneSettings.read(port=9001, data_dir=tmp_path)
    assert (settings.port, settings.detector_threads) == (9001, 3)


def test_keys_lie_in_the_data_folder_unless_said_otherwise(tmp_path: Path) -> None:
    assert StandaloneSettings.read(data_dir=tmp_path).keys_path == tmp_path / "keys.json"
    assert StandaloneSettings.read(keys_file=tmp_path / "k").keys_path == tmp_path / "k"


def test_a_wrong_setting_is_one_line() -> None:
    with pytest.raises(SettingsError) as caught:
        StandaloneSettings.read(port=70000)
    assert "port" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_logs_are_json_where_nobody_reads_along(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    assert StandaloneSettings.read().log_format == "json"
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert StandaloneSettings.read().log_format == "console"
    monkeypatch.setenv("FACEWIRE_LOG_FORMAT", "json")
    assert StandaloneSettings.read().log_format == "json"
