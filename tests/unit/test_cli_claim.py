"""One process a data folder."""

import os
from pathlib import Path

import pytest

from facewire.domain.errors import SettingsError
from facewire_standalone.claim import claimed


def test_a_folder_is_made_private_and_held_by_one(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    with claimed(folder):
        assert folder.stat().st_mode & 0o777 == 0o700
        with pytest.raises(SettingsError, match=f"served by process {os.getpid()}:"), claimed(folder):
            pytest.fail("two held it")
    with claimed(folder):
        pass


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(SettingsError, match=r"settings: data_dir: .*file/data cannot be written"),
        claimed(tmp_path / "file" / "data"),
    ):
        pytest.fail("it was held")
