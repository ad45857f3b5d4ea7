"""The archive's objects: their fields, their one line, their key, and the Glue table that describes them."""

import json
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from facewire.domain.archive import ProcessedFrame
from facewire.domain.errors import DecodeError
from facewire.domain.messages import (
    DetectedFaces,
    Emotions,
    FaceAttributes,
    FrameInfo,
    RecognizedFace,
    RecognizedFaces,
    failed,
)

TABLE = Path(__file__).parents[2] / "deploy" / "aws" / "athena" / "table.json"
RECEIVED = datetime(2026, 11, 22, 10, 15, 0, 123456, tzinfo=UTC)
HAPPY = Emotions(neutral=0.1, happy=0.9, sad=0, angry=0, fearful=0, disgusted=0, surprised=0)
KINDS = {"string": "string", "integer": "int", "number": "double"}


def face(index: int = 0, **fields: Any) -> RecognizedFace:
    told = {"person": "Ada Lovelace", "known": True, "similarity": 0.97, "confidence": 0.999}
    return RecognizedFace.model_validate(
        {"index": index, "box": (10.5, 20, 110.25, 130), "landmarks": None, **told, **fields}
    )


def answer(*faces: RecognizedFace, **fields: Any) -> RecognizedFaces:
    told = {"request_id": "img-1", "result": "Ada Lovelace", "received_at": RECEIVED, "content_sha256": "ab" * 32}
    return RecognizedFaces.model_validate({**told, "faces": faces, **fields})


def archived(*faces: RecognizedFace, **fields: Any) -> dict[str, Any]:
    line = ProcessedFrame.of(answer(*faces, **fields)).to_line()
    assert line.count(b"\n") == 1
    said: dict[str, Any] = json.loads(line)
    return said


def test_a_frame_is_one_line_with_everything_about_its_faces() -> None:
    unknown = face(1, person=None, known=False, reason="below_threshold", similarity=0.5)
    info = FrameInfo(width=1280, height=720, bytes=91234)
    said = archived(face(), unknown, frame=info, camera="door", filename="a\nb.jpg", timings_ms={"total": 70.2})
    assert (said["image_id"], said["timestamp"]) == ("img-1", "2026-11-22T10:15:00.123Z")
    assert (said["camera"], said["filename"], said["width"], said["height"]) == ("door", "a\nb.jpg", 1280, 720)
    assert (said["status"], said["result"], said["total_ms"], said["error"]) == ("done", "Ada Lovelace", 70.2, None)
    ada, stranger = said["faces"]
    assert ada["bounding_box"] == {"x1": 10.5, "y1": 20, "x2": 110.25, "y2": 130}
    assert (ada["person"], ada["similarity"], ada["confidence"], ada["reason"]) == ("Ada Lovelace", 0.97, 0.999, None)
    assert (stranger["person"], stranger["similarity"], stranger["reason"]) == (None, 0.5, "below_threshold")
    assert ada["face_id"] != stranger["face_id"]
    assert {each["image_id"] for each in said["faces"]} == {"img-1"}
    assert {each["timestamp"] for each in said["faces"]} == {said["timestamp"]}


def test_guesses_are_there_only_if_they_were_made() -> None:
    assert "emotions" not in archived(face())["faces"][0]
    guessed = FaceAttributes(emotions=HAPPY, age=36.5, gender="female", gender_confidence=0.98)
    (said,) = archived(face(attributes=guessed))["faces"]
    assert said["emotions"]["happy"] == 0.9
    assert (said["age"], said["gender"], said["gender_confidence"]) == (36.5, "female", 0.98)


def test_a_failure_says_where_and_why() -> None:
    request = DetectedFaces(request_id="img-1", received_at=RECEIVED)
    broken = failed(request, DecodeError("not_an_image", "it is a text"), source="cloud")
    said = json.loads(ProcessedFrame.of(broken).to_line())
    assert (said["status"], said["faces"]) == ("failed", [])
    assert said["error"] == {"stage": "decode", "code": "not_an_image", "detail": "it is a text"}


def test_the_same_answer_is_the_same_object_and_has_the_same_faces() -> None:
    one, two = (ProcessedFrame.of(answer(face())) for _ in range(2))
    assert (one.key, one.to_line()) == (two.key, two.to_line())
    other = ProcessedFrame.of(answer(face(), content_sha256="cd" * 32))
    assert other.faces[0].face_id != one.faces[0].face_id


@pytest.mark.parametrize(
    ("request_id", "name"),
    [
        ("img-1", "101500-img-1.json"),
        (".hidden_1", "101500-.hidden_1.json"),
        ("a b", "101500-c8687a08aa5d6ed2044328fa6a697ab8e96dc34291e8c2034ae8c38e6fcc6d65.json"),
        ("%2e&?=\\", "101500-a00d15a65544f4c4f73e8ee930cc89d20ea319886509b20670ba1eadcafc4dd3.json"),
    ],
)
def test_the_key_has_day_time_and_a_name_that_is_one_everywhere(request_id: str, name: str) -> None:
    assert ProcessedFrame.of(answer(request_id=request_id)).key == f"processed/day=2026-11-22/{name}"


def test_the_day_is_that_of_utc() -> None:
    received = datetime(2026, 11, 23, 1, 30, tzinfo=timezone(timedelta(hours=2)))
    assert ProcessedFrame.of(answer(received_at=received)).key.startswith("processed/day=2026-11-22/233000-")


def test_moments_at_the_end_of_the_calendar_are_written() -> None:
    captured = datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14)))
    assert archived(captured_at=captured)["captured_at"] == "0001-01-01T00:00:00.000Z"


def hive_type(schema: dict[str, Any], models: dict[str, Any]) -> str:
    """Return the type that Athena needs for what pydantic says of a field."""
    schema = next((option for option in schema.get("anyOf", ()) if option.get("type") != "null"), schema)
    if schema.get("type") == "array":
        return f"array<{hive_type(schema['items'], models)}>"
    if "$ref" not in schema:
        return KINDS[schema["type"]]
    fields = models[schema["$ref"].rpartition("/")[2]]["properties"]
    return f"struct<{','.join(f'{name}:{hive_type(field, models)}' for name, field in fields.items())}>"


def test_the_table_has_the_fields_of_the_objects() -> None:
    schema = ProcessedFrame.model_json_schema(mode="serialization")
    columns = json.loads(TABLE.read_text())["StorageDescriptor"]["Columns"]
    expected = {name: hive_type(field, schema["$defs"]) for name, field in schema["properties"].items()}
    assert {column["Name"]: column["Type"] for column in columns} == expected
