"""Answers in words, changed views, and the table of the watcher."""

import io

import pytest
from PIL import Image
from rich.console import Console

from facewire.domain.messages import Enrolled, Failure, RecognizedFace, RecognizedFaces
from facewire_standalone.commands.answers import leading_face, milliseconds, reason, similarity, summary
from facewire_standalone.commands.client import Event, Picture
from facewire_standalone.commands.demo import changed_views
from facewire_standalone.commands.watch import ResultLines, ResultTable, show


def face(index: int, person: str | None, similarity_: float | None, reason_: str | None = None) -> RecognizedFace:
    return RecognizedFace.model_validate(
        {
            "index": index,
            "person": person,
            "known": person is not None,
            "similarity": similarity_,
            "reason": reason_,
            "box": (0, 0, 10, 10),
            "landmarks": None,
            "confidence": 1,
        }
    )


def answer(*faces: RecognizedFace, **fields: object) -> RecognizedFaces:
    return RecognizedFaces.model_validate({"request_id": "r", "result": "Ada", "faces": faces, **fields})


def test_the_leading_face_is_the_largest_known_one() -> None:
    known = answer(face(0, None, 0.2, "below_threshold"), face(1, "Ada", 0.95))
    assert leading_face(known) == known.faces[1]
    unknown = answer(face(0, None, 0.2, "below_threshold"), face(1, None, 0.3, "ambiguous"))
    assert leading_face(unknown) == unknown.faces[0]
    assert leading_face(answer()) is None


def test_a_known_face_in_one_line() -> None:
    line = summary("a.jpg", answer(face(0, "Ada", 0.9512), timings_ms={"total": 70.25}))
    assert line == "a.jpg: Ada  similarity 0.951  70.2 ms"


def test_an_unknown_face_comes_with_its_reason() -> None:
    line = summary("a.jpg", answer(face(0, None, 0.4, "below_threshold"), face(1, None, 0.1), result="Unknown"))
    assert line == "a.jpg: Unknown  similarity 0.400  2 faces  below_threshold"


def test_a_failure_says_stage_code_and_detail() -> None:
    failure = Failure(stage="decode", code="not_an_image", detail="no picture")
    assert reason(answer(status="failed", error=failure)) == "decode: not_an_image: no picture"


def test_a_refused_enrolment_says_why() -> None:
    refused = Enrolled(person="Ada", refused=("too_small", "too_dark"))
    assert reason(answer(enrolled=refused)) == "refused: too_small, too_dark"


def test_what_is_not_known_is_a_dash() -> None:
    assert similarity(answer(face(0, None, None, "empty_gallery"))) == "-"
    assert milliseconds(answer(), "embed") == "-"


def test_the_views_of_a_portrait_are_changed_and_small_enough() -> None:
    portrait = Image.linear_gradient("L").resize((200, 100)).rotate(30).convert("RGB")
    buffer = io.BytesIO()
    portrait.save(buffer, "PNG")
    views = changed_views(Picture("portrait.png", buffer.getvalue()))
    assert list(views) == ["mirrored", "darker", "turned", "smaller", "as WebP"]
    assert len({view.content for view in views.values()}) == 5
    opened = {name: Image.open(io.BytesIO(view.content)) for name, view in views.items()}
    assert opened["smaller"].size == (120, 60)
    assert opened["as WebP"].format == "WEBP"
    assert all(opened[name].size == (200, 100) for name in ("mirrored", "darker", "turned", "as WebP"))


@pytest.mark.parametrize("name", ["[red]Ada", "Ada [/]"])
def test_the_watcher_shows_the_newest_first_and_names_as_they_are(name: str) -> None:
    table = ResultTable()
    show(Event("open"), table)
    show(Event("result", answer(face(0, "Bob", 0.9), result="Bob", camera="door")), table)
    show(Event("result", answer(face(0, name, 0.9), result=name)), table)
    show(Event("overflow"), table)
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(table)
    shown = console.export_text()
    assert shown.index(name) < shown.index("Bob")
    assert "2 results" in shown
    assert "some are missing" in shown


def test_without_a_terminal_each_changed_state_is_one_line_beside_the_answers() -> None:
    console, errors = Console(file=io.StringIO(), record=True), Console(file=io.StringIO(), record=True)
    lines = ResultLines(console, errors)
    for state in ("no answer from [here]", "no answer from [here]"):
        lines.note(state)
    show(Event("open"), lines)
    show(Event("result", answer(face(0, "Ada", 0.9), camera="door", filename="a.jpg")), lines)
    show(Event("open"), lines)
    assert console.export_text() == "door  a.jpg: Ada  similarity 0.900\n"
    assert errors.export_text() == "facewire: no answer from [here]\nfacewire: watching\n"
