import json
import uuid
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from facewire.domain.enrolment import choose_face
from facewire.domain.gallery import Gallery, GalleryFace
from facewire.domain.messages import (
    DetectedFace,
    DetectedFaces,
    Emotions,
    FaceAttributes,
    FaceCrop,
    FaceQuality,
    RecognizedFaces,
    now,
)
from facewire.domain.names import face_id
from facewire.domain.quality_gate import ENROLMENT, RECOGNITION
from facewire.stages.recognize import FaceRecognizer, Recognition
from facewire.vision.facecrop import FaceInCrop
from facewire.vision.imagecodec import encode_jpeg
from facewire.vision.models import ATTRIBUTES
from pipeline_fakes import ColourEmbedder

RED, GREEN, BLUE, BROWN = (230, 20, 20), (20, 230, 20), (20, 20, 230), (150, 110, 20)
RELATIVE = np.array([[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.75], [0.65, 0.75]])
GOOD = FaceQuality(size=120, sharpness=200, brightness=120, yaw=0, pitch=0, roll=0)
POOR = FaceQuality(size=10, sharpness=200, brightness=120, yaw=0, pitch=0, roll=0)
SMALL = FaceQuality(size=40, sharpness=200, brightness=120, yaw=0, pitch=0, roll=0)


def face(colour: tuple[int, int, int], *, index: int = 0, side: float = 100, **fields: Any) -> DetectedFace:
    """A face of one colour at (300, 200) in the frame; the crop shows 40 per cent more, at half the size."""
    picture = np.full((90, 90, 3), colour, np.uint8)
    landmarks = RELATIVE * side + [300, 200]
    in_crop = (landmarks - [300, 200] + 0.4 * side) * 50 / side
    values = {
        "index": index,
        "box": (300, 200, 300 + side, 200 + side),
        "landmarks": landmarks.tolist(),
        "confidence": 0.999,
        "crop": {"jpeg": encode_jpeg(picture), "landmarks": in_crop.tolist()},
        "quality": GOOD,
    }
    return DetectedFace.model_validate(values | fields)


def message(*faces: DetectedFace, request_id: str = "r1", **fields: Any) -> DetectedFaces:
    return DetectedFaces(request_id=request_id, faces=faces, **fields)


def unit(colour: tuple[int, int, int]) -> np.ndarray[Any, np.dtype[np.float32]]:
    vector = np.array(colour, np.float32)
    result: np.ndarray[Any, np.dtype[np.float32]] = vector / np.linalg.norm(vector)
    return result


def gallery(**people: tuple[int, int, int]) -> Gallery:
    faces = [GalleryFace(str(uuid.uuid4()), person, unit(colour)) for person, colour in people.items()]
    return Gallery.empty(3).with_faces(faces, version=7)


def recognize(*messages: DetectedFaces, known: Gallery | None = None) -> list[Recognition]:
    return FaceRecognizer(ColourEmbedder())(messages, gallery(Red=RED, Green=GREEN) if known is None else known)


def test_names_a_known_face_with_its_similarity_and_the_runner_up() -> None:
    (recognition,) = recognize(message(face(RED), camera="door", filename="a.jpg"))
    answer = recognition.answer
    assert (answer.status, answer.result, answer.camera, answer.filename) == ("done", "Red", "door", "a.jpg")
    assert (answer.embedder, answer.gallery_version, answer.source) == ("colour", 7, "cloud")
    (found,) = answer.faces
    assert (found.person, found.known, found.reason, found.nearest) == ("Red", True, None, None)
    assert found.similarity == pytest.approx(1, abs=0.01)
    assert found.runner_up is not None
    assert found.runner_up.person == "Green"
    assert found.runner_up.similarity == pytest.approx(0.17, abs=0.03)
    assert recognition.enrolled is None


def test_an_unknown_face_has_no_person_but_says_whom_it_came_closest_to() -> None:
    (recognition,) = recognize(message(face(BROWN)))
    assert recognition.answer.result == "Unknown"
    (found,) = recognition.answer.faces
    assert (found.person, found.known, found.reason) == (None, False, "below_threshold")
    assert found.nearest is not None
    assert found.nearest.person == "Red"
    assert found.similarity == found.nearest.similarity < 0.95
    assert found.runner_up is not None
    assert found.runner_up.person == "Green"


def test_a_face_between_two_people_is_ambiguous() -> None:
    (recognition,) = recognize(message(face(RED)), known=gallery(Red=RED, Twin=(229, 21, 20)))
    assert recognition.answer.faces[0].reason == "ambiguous"
    assert recognition.answer.result == "Unknown"


def test_threshold_and_margin_can_be_set() -> None:
    recognizer = FaceRecognizer(ColourEmbedder(), threshold=0.5, margin=0.0)
    (recognition,) = recognizer([message(face(BROWN))], gallery(Red=RED, Green=GREEN))
    assert recognition.answer.result == "Red"


def test_an_empty_gallery_is_the_reason() -> None:
    (recognition,) = recognize(message(face(RED)), known=Gallery.empty(3))
    (found,) = recognition.answer.faces
    assert (found.reason, found.similarity, found.nearest, found.runner_up) == ("empty_gallery", None, None, None)


def test_a_face_of_low_quality_is_never_known_but_says_whom_it_is_close_to() -> None:
    (recognition,) = recognize(message(face(RED, quality=POOR)), known=gallery(Red=RED, Blue=BLUE))
    (found,) = recognition.answer.faces
    assert (found.reason, found.person, found.known) == ("low_quality", None, False)
    assert found.nearest is not None
    assert (found.nearest.person, found.similarity) == ("Red", found.nearest.similarity)
    assert found.runner_up is not None
    assert recognition.answer.result == "Unknown"


def test_without_a_gallery_that_is_the_reason_whatever_the_quality() -> None:
    (recognition,) = recognize(message(face(RED, quality=POOR)), known=Gallery.empty(3))
    assert recognition.answer.faces[0].reason == "empty_gallery"


def test_the_result_is_the_known_person_with_the_largest_face() -> None:
    (recognition,) = recognize(message(face(BLUE), face(GREEN, index=1), face(RED, index=2)))
    assert recognition.answer.result == "Green"
    assert [found.person for found in recognition.answer.faces] == [None, "Green", "Red"]


def test_no_face_is_a_result() -> None:
    (recognition,) = recognize(message())
    assert (recognition.answer.status, recognition.answer.result) == ("done", "No-Face")


def test_all_faces_of_all_messages_are_one_batch() -> None:
    embedder = ColourEmbedder()
    messages = [message(face(RED), face(BLUE, index=1)), message(), message(face(GREEN), request_id="r2")]
    recognitions = FaceRecognizer(embedder)(messages, gallery(Red=RED, Green=GREEN))
    assert embedder.batches == [3]
    assert [recognition.answer.result for recognition in recognitions] == ["Red", "No-Face", "Green"]


@pytest.mark.parametrize(
    ("crop", "stage", "code"),
    [
        ({"jpeg": b"junk", "landmarks": RELATIVE.tolist()}, "decode", "not_an_image"),
        ({"jpeg": encode_jpeg(np.zeros((9, 9, 3), np.uint8)), "landmarks": [[1, 1]] * 5}, "recognize", "bad_landmarks"),
    ],
)
def test_a_message_with_a_bad_crop_fails_and_the_others_go_on(crop: dict[str, Any], stage: str, code: str) -> None:
    bad = message(face(RED), face(RED, index=1, crop=crop), request_id="bad", camera="door")
    first, failed, last = recognize(message(face(RED)), bad, message(face(GREEN)))
    assert [first.answer.result, failed.answer.result, last.answer.result] == ["Red", "Failed", "Green"]
    assert failed.answer.error is not None
    assert (failed.answer.error.stage, failed.answer.error.code) == (stage, code)
    assert (failed.answer.request_id, failed.answer.camera) == ("bad", "door")


def test_a_face_whose_landmarks_fall_together_fails() -> None:
    (recognition,) = recognize(message(face(RED, landmarks=[[5, 5]] * 5)))
    assert recognition.answer.error is not None
    assert recognition.answer.error.code == "bad_landmarks"


def test_the_single_face_message_of_earlier_deployments_is_recognised() -> None:
    rng = np.random.default_rng(3)
    picture = np.clip(rng.normal(RED, 15, (160, 160, 3)), 0, 255).astype(np.uint8)
    body = {"request_id": "r1", "filename": "a.jpg", "face_image": encode_jpeg(picture)}
    (recognition,) = recognize(DetectedFaces.model_validate(body))
    assert recognition.answer.result == "Red"
    assert recognition.answer.faces[0].quality is not None


def test_timings_hold_those_of_the_detector_and_our_own() -> None:
    earlier = now() - timedelta(seconds=3)
    detected = message(
        face(RED), received_at=earlier, sent_at=earlier + timedelta(seconds=1), timings_ms={"decode": 4.1}
    )
    (recognition,) = recognize(detected)
    timings = recognition.answer.timings_ms
    assert list(timings) == ["decode", "align", "embed", "match", "queue", "total"]
    assert timings["decode"] == 4.1
    assert 2000 <= timings["queue"] < 2900
    assert 3000 <= timings["total"] < 3900


def test_a_clock_ahead_of_ours_gives_no_negative_times() -> None:
    (recognition,) = recognize(
        message(face(RED), received_at=now() + timedelta(hours=1), sent_at=now() + timedelta(hours=1))
    )
    assert recognition.answer.timings_ms["queue"] == recognition.answer.timings_ms["total"] == 0


def test_the_box_is_found_in_the_crop_from_both_sets_of_landmarks() -> None:
    in_crop = FaceInCrop.of_detected(face(RED, side=200))
    assert in_crop.box == pytest.approx([20, 20, 70, 70], abs=0.01)


def test_enrolment_keeps_the_face_with_its_crop() -> None:
    detected = message(face(BLUE), enroll_as="Blue", content_sha256="00")
    (recognition,) = recognize(detected)
    assert recognition.answer.result == "Blue"
    assert recognition.answer.enrolled is not None
    assert recognition.answer.enrolled.refused == ()
    enrolled = recognition.enrolled
    assert enrolled is not None
    assert enrolled.face_id == recognition.answer.enrolled.face_id == face_id("r1", "00")
    assert (enrolled.person, enrolled.embedder) == ("Blue", "colour")
    assert enrolled.enrolled_at == detected.received_at
    vector = np.frombuffer(enrolled.embedding, "<f4")
    assert vector == pytest.approx(unit(BLUE), abs=0.02)
    assert np.linalg.norm(vector) == pytest.approx(1)
    crop = enrolled.crop
    assert crop is not None
    assert crop.jpeg == detected.faces[0].crop.jpeg
    assert crop.box == (20, 20, 70, 70)
    again = FaceInCrop.of_enrolled(crop)
    assert again.landmarks == pytest.approx(np.array(detected.faces[0].crop.landmarks))


def test_a_request_id_used_anew_with_another_picture_enrols_another_face() -> None:
    first, redelivered, anew = (
        message(face(BLUE), enroll_as="Blue", content_sha256=content) for content in ("00", "00", "01")
    )
    ids = [recognition.enrolled and recognition.enrolled.face_id for recognition in recognize(first, redelivered, anew)]
    assert ids[0] == ids[1] != ids[2]


def test_enrolment_warns_of_another_person_who_looks_alike() -> None:
    (recognition,) = recognize(message(face(RED), enroll_as="Scarlet"))
    assert recognition.enrolled is not None
    assert recognition.answer.enrolled is not None
    assert recognition.answer.enrolled.looks_like is not None
    assert recognition.answer.enrolled.looks_like.person == "Red"


def test_enrolment_does_not_warn_of_the_same_person_nor_of_strangers() -> None:
    for person, colour in (("Red", RED), ("Blue", BLUE)):
        (recognition,) = recognize(message(face(colour), enroll_as=person))
        assert recognition.answer.enrolled is not None
        assert recognition.answer.enrolled.looks_like is None


def test_enrolment_of_somebody_known_warns_of_the_runner_up() -> None:
    (recognition,) = recognize(message(face(RED), enroll_as="Red"), known=gallery(Red=RED, Twin=(229, 22, 20)))
    assert recognition.answer.enrolled is not None
    assert recognition.answer.enrolled.looks_like is not None
    assert recognition.answer.enrolled.looks_like.person == "Twin"


@pytest.mark.parametrize(
    ("faces", "refused"),
    [
        ([], ("no_face",)),
        ([face(BLUE, quality=SMALL)], ("too_small",)),
        ([face(BLUE, quality=SMALL, confidence=0.9)], ("too_small", "low_confidence")),
        ([face(BLUE), face(RED, index=1, side=80)], ("several_faces",)),
    ],
)
def test_enrolment_is_refused_with_the_reason(faces: list[DetectedFace], refused: tuple[str, ...]) -> None:
    (recognition,) = recognize(message(*faces, enroll_as="Blue"))
    assert recognition.enrolled is None
    assert recognition.answer.enrolled is not None
    assert (recognition.answer.enrolled.face_id, recognition.answer.enrolled.refused) == (None, refused)
    assert recognition.answer.result == ("Unknown" if faces else "No-Face")


def test_the_face_meant_is_the_one_that_passes_or_is_twice_as_large() -> None:
    large, small = (face(BLUE, side=100), GOOD), (face(RED, side=70), GOOD)
    assert choose_face([large, small]) == 0
    assert choose_face([small, large]) == 1
    assert choose_face([large, (face(RED, side=99), SMALL)]) == 0
    assert choose_face([(face(BLUE, side=100), SMALL), small]) == 1


def test_what_may_be_enrolled_may_be_compared() -> None:
    for least in ("confidence", "size", "sharpness", "darkest"):
        assert getattr(ENROLMENT, least) >= getattr(RECOGNITION, least)
    for most in ("brightest", "yaw", "pitch", "roll"):
        assert getattr(ENROLMENT, most) <= getattr(RECOGNITION, most)


def test_an_enrolled_crop_without_its_place_is_refused() -> None:
    crop = FaceCrop(jpeg=encode_jpeg(np.zeros((9, 9, 3), np.uint8)), landmarks=None)
    with pytest.raises(Exception, match="no landmarks or no box"):
        FaceInCrop.of_enrolled(crop)


class ColourAttributes:
    """Takes the amount of red for the age."""

    spec = ATTRIBUTES

    def guess(self, faces: NDArray[np.uint8]) -> list[FaceAttributes]:
        calm = Emotions(neutral=1, happy=0, sad=0, angry=0, fearful=0, disgusted=0, surprised=0)
        ages = faces[:, :, :, 0].mean((1, 2)).tolist() if len(faces) else []
        return [FaceAttributes(emotions=calm, age=age, gender="female", gender_confidence=0.9) for age in ages]


def test_attributes_are_guessed_of_every_face_that_is_good_enough() -> None:
    recognizer = FaceRecognizer(ColourEmbedder(), attributes=ColourAttributes())
    faces = [face(RED), face(RED, index=1, quality=POOR), face(GREEN, index=2)]
    first, second = recognizer([message(*faces), message(face(BROWN), request_id="r2")], gallery(Red=RED))
    ages = [found.attributes and found.attributes.age for found in (*first.answer.faces, *second.answer.faces)]
    assert ages == [pytest.approx(230, abs=3), None, pytest.approx(20, abs=3), pytest.approx(150, abs=3)]
    assert "attributes" in first.answer.timings_ms
    said = json.loads(first.answer.to_bytes())["faces"]
    assert [("attributes" in each) for each in said] == [True, False, True]
    assert said[0]["attributes"]["emotions"]["neutral"] == 1
    assert RecognizedFaces.from_bytes(first.answer.to_bytes()) == first.answer
    (none,) = recognizer([message()], gallery(Red=RED))
    assert none.answer.result == "No-Face"


def test_nothing_is_said_of_attributes_unless_they_are_guessed() -> None:
    (recognition,) = recognize(message(face(RED)))
    assert b"attributes" not in recognition.answer.to_bytes()
