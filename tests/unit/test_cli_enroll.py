"""Which pictures are enrolled as whom, and what is said of them."""

import io
import os
from pathlib import Path

import pytest
from rich.console import Console

from facewire.domain.errors import SettingsError
from facewire_standalone.commands.enroll import Attempt, find_pictures, report


def test_a_folder_per_person_in_order(tmp_path: Path) -> None:
    for name in ("Bob/2.png", "Bob/1.JPG", "Ada/x.webp", "Ada/notes.txt", "loose.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = [(person, file.name) for person, file in find_pictures(tmp_path)]
    assert found == [("Ada", "x.webp"), ("Bob", "1.JPG"), ("Bob", "2.png")]


def test_no_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no_such_folder"):
        find_pictures(tmp_path / "absent")


def test_nothing_to_enrol_says_how_it_should_look(tmp_path: Path) -> None:
    (tmp_path / "loose.jpg").touch()
    with pytest.raises(SettingsError, match="make a folder per person"):
        find_pictures(tmp_path)


def said_of(*attempts: Attempt) -> tuple[bool, str]:
    console = Console(width=160, record=True, file=io.StringIO())
    return report(attempts, console), console.export_text()


def test_everybody_enrolled_is_fine_though_a_picture_was_refused() -> None:
    fine, text = said_of(Attempt("[Ada]", "1.jpg"), Attempt("[Ada]", "2.jpg", ("too_small", "too_dark")))
    assert fine
    assert "[Ada]" in text
    assert "too_small, too_dark" in text
    assert "1 of 2 pictures enrolled, 1 of 1 people" in text


def test_somebody_without_a_face_is_not_fine() -> None:
    fine, text = said_of(Attempt("Ada", "1.jpg"), Attempt("Bob", "2.jpg", ("no_face",)))
    assert not fine
    assert "nobody enrolled as: Bob" in text


def test_a_likeness_is_pointed_out() -> None:
    fine, text = said_of(Attempt("Ada", "1.jpg", note="looks like Bob (similarity 0.950)"))
    assert fine
    assert "looks like Bob" in text


def test_a_folder_whose_name_is_no_text_names_nobody(tmp_path: Path) -> None:
    person = tmp_path / os.fsdecode(b"Jos\xe9")
    person.mkdir()
    (person / "a.jpg").touch()
    with pytest.raises(SettingsError, match=r"folder_name: .*Jos\ufffd: "):
        find_pictures(tmp_path)
