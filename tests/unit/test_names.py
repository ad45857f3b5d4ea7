"""What may name a request, a camera, a person."""

import pytest

from facewire.domain.messages import FAILED, NO_FACE, UNKNOWN
from facewire.domain.names import check_camera, check_person, check_request_id, face_id, raw_frame_id


@pytest.mark.parametrize("value", ["a", "x" * 128, "frame 1", "Übergang-7", "a.b_c:d", "📷"])
def test_printable_ids_are_taken(value: str) -> None:
    assert check_request_id(value) == value
    assert check_camera(value) == value


@pytest.mark.parametrize("value", ["", "x" * 129, "a/b", "a+b", "#", "a\nb", "a\x00b", "a\u2028b"])
def test_ids_that_break_a_topic_or_a_line_are_refused(value: str) -> None:
    with pytest.raises(ValueError, match=r"characters|printable"):
        check_request_id(value)


@pytest.mark.parametrize("value", ["Ada Lovelace", "  Ada ", "José", "李小龍", "O'Brien, Conan"])
def test_peoples_names_are_taken_without_outer_blanks(value: str) -> None:
    assert check_person(value) == value.strip()


def test_one_spelling_is_one_person() -> None:
    assert check_person("Jose\u0301") == check_person("Jos\u00e9") == "Jos\u00e9"


@pytest.mark.parametrize("value", ["", "   ", "x" * 300, "..", ".", "a/b", "a\\b", "a\x07b", "a\u202eb"])
def test_names_that_could_be_paths_or_deceive_are_refused(value: str) -> None:
    with pytest.raises(ValueError, match=r"must"):
        check_person(value)


def test_too_long_a_name_says_both_numbers() -> None:
    with pytest.raises(ValueError, match="has 300 characters, must have 1 to 128"):
        check_person("x" * 300)


def test_derived_ids_depend_on_all_they_are_made_of() -> None:
    assert raw_frame_id("cam", "00") == raw_frame_id("cam", "00")
    assert len({raw_frame_id("cam", "00"), raw_frame_id("cam2", "00"), raw_frame_id("cam", "01")}) == 3
    assert face_id("r1", "00") == face_id("r1", "00")
    assert len({face_id("r1", "00"), face_id("r2", "00"), face_id("r1", "01")}) == 3


@pytest.mark.parametrize("value", [UNKNOWN, NO_FACE, FAILED, "UNKNOWN", "no-face", " failed "])
def test_nobody_is_named_like_a_result(value: str) -> None:
    with pytest.raises(ValueError, match=r"must not be '.+', which an answer's result says"):
        check_person(value)
