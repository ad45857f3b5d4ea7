import io
from datetime import timedelta

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from facewire.domain.errors import DecodeError
from facewire.domain.messages import MAX_FACES, MAX_MESSAGE_BYTES, DetectedFaces, Frame, now
from facewire.stages.detect import CROP_FORMS, FaceDetector
from facewire.vision.imagecodec import decode, encode_jpeg
from facewire.vision.mtcnn import Detections

#: Where the landmarks of `face_at` are in the box.
RELATIVE = np.array([[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.75], [0.65, 0.75]])


def detections(*boxes: tuple[float, float, float, float]) -> Detections:
    corners = np.array(boxes, np.float32).reshape(-1, 4)
    sides = corners[:, 2:] - corners[:, :2]
    landmarks = corners[:, None, :2] + RELATIVE[None] * sides[:, None]
    return Detections(corners, np.full(len(boxes), 0.999, np.float32), landmarks.astype(np.float32))


def picture(width: int, height: int) -> NDArray[np.uint8]:
    """A smooth picture whose red says x and whose green says y, so that a crop's place can be read from it."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return np.dstack([x, y, np.full_like(x, 128)]).astype(np.uint8)


def noise(width: int, height: int) -> NDArray[np.uint8]:
    return np.random.default_rng(5).integers(0, 256, (height, width, 3), dtype=np.uint8)


def png(image: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def frame(image: NDArray[np.uint8], **fields: object) -> Frame:
    return Frame.of(encode_jpeg(image, 95), request_id="r1", camera="door", filename="a.jpg", **fields)


def detect(image: NDArray[np.uint8], *boxes: tuple[float, float, float, float]) -> DetectedFaces:
    return FaceDetector(lambda _: detections(*boxes))(frame(image))


def test_carries_what_the_frame_says() -> None:
    taken = now() - timedelta(seconds=2)
    sent = frame(picture(320, 240), captured_at=taken, received_at=taken, enroll_as="Eileen Collins", enroll_proof="00")
    found = FaceDetector(lambda _: detections((100, 60, 180, 160)))(sent)
    assert (found.request_id, found.camera, found.filename) == ("r1", "door", "a.jpg")
    assert (found.captured_at, found.received_at) == (taken, taken)
    assert (found.enroll_as, found.enroll_proof) == ("Eileen Collins", "00")
    assert found.content_sha256 == sent.content_sha256
    assert found.frame is not None
    assert (found.frame.width, found.frame.height, found.frame.bytes) == (320, 240, len(sent.content))
    assert list(found.timings_ms) == ["inbox", "decode", "detect", "crop"]
    assert found.timings_ms["inbox"] >= 2000
    assert all(value == round(value, 1) for value in found.timings_ms.values())


def test_the_crop_shows_40_per_cent_beyond_each_side_of_the_box() -> None:
    (face,) = detect(picture(640, 480), (200, 100, 300, 220)).faces
    crop = decode(face.crop.jpeg)
    assert crop.shape == (120 + 2 * 48, 100 + 2 * 40, 3)
    assert abs(int(crop[0, 0, 0]) - 160 / 639 * 255) < 4
    assert abs(int(crop[0, 0, 1]) - 52 / 479 * 255) < 4


def test_landmarks_move_with_the_crop() -> None:
    (face,) = detect(picture(640, 480), (200, 100, 300, 220)).faces
    assert face.landmarks is not None
    assert face.crop.landmarks is not None
    assert face.landmarks[0] == (230.0, 148.0)
    assert face.crop.landmarks[0] == (70.0, 96.0)


def test_a_large_crop_is_scaled_to_288_pixels_with_its_landmarks() -> None:
    (face,) = detect(picture(1600, 1200), (400, 300, 900, 900)).faces
    crop = decode(face.crop.jpeg)
    assert max(crop.shape) == CROP_FORMS[0][0] == 288
    assert face.crop.landmarks is not None
    for (x, y), (crop_x, crop_y) in zip(face.landmarks or (), face.crop.landmarks, strict=True):
        red, green = crop[round(crop_y), round(crop_x), :2]
        assert abs(red - x / 1599 * 255) < 4
        assert abs(green - y / 1199 * 255) < 4


def test_a_large_crop_is_antialiased() -> None:
    stripes = np.zeros((1200, 1200, 3), np.uint8)
    stripes[:, ::2] = 255
    (face,) = FaceDetector(lambda _: detections((300, 300, 900, 900)))(Frame.of(png(stripes), request_id="r1")).faces
    assert decode(face.crop.jpeg).std() < 8


@pytest.mark.parametrize(
    "box", [(-30.0, -20.0, 60.0, 90.0), (280.0, 200.0, 360.0, 300.0), (-50, -50, 400, 300), (400, 300, 480, 400)]
)
def test_a_box_beyond_the_frame_keeps_its_values_and_the_crop_ends_at_the_edge(
    box: tuple[float, float, float, float],
) -> None:
    (face,) = detect(picture(320, 240), box).faces
    assert face.box == box
    height, width = decode(face.crop.jpeg).shape[:2]
    assert 1 <= width <= 320
    assert 1 <= height <= 240


def test_boxes_are_rounded_to_hundredths() -> None:
    (face,) = detect(picture(320, 240), (10.123456, 20.987654, 99.005, 120.4)).faces
    assert face.box == (10.12, 20.99, 99.0, 120.4)


def test_a_frame_without_a_face_has_none() -> None:
    found = detect(picture(64, 48))
    assert found.faces == ()
    assert found.faces_dropped == 0


def test_faces_are_numbered_and_at_most_32_travel_on() -> None:
    boxes = [(10.0 * i, 10, 10.0 * i + 40, 60) for i in range(40)]
    found = detect(picture(640, 100), *boxes)
    assert [face.index for face in found.faces] == list(range(MAX_FACES))
    assert found.faces_dropped == 8


def test_a_message_that_would_grow_too_large_is_made_to_fit() -> None:
    boxes = [(float(i), 20, 160.0 + i, 180) for i in range(32)]
    image = noise(400, 300)
    found = detect(image, *boxes)
    assert len(found.to_bytes()) <= MAX_MESSAGE_BYTES
    assert max(decode(found.faces[0].crop.jpeg).shape) == 192
    assert len(found.faces) + found.faces_dropped == 32
    few = detect(image, *boxes[:8])
    assert max(decode(few.faces[0].crop.jpeg).shape) > 192
    assert few.faces_dropped == 0


def test_the_smallest_faces_are_dropped_where_nothing_else_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("facewire.stages.detect.MAX_MESSAGE_BYTES", 120_000)
    boxes = [(20.0, 20, 180.0 - i, 180) for i in range(10)]
    found = detect(noise(400, 300), *boxes)
    assert 0 < len(found.faces) < 10
    assert found.faces_dropped == 10 - len(found.faces)
    assert [face.box for face in found.faces] == boxes[: len(found.faces)]
    assert len(found.to_bytes()) <= 120_000


@pytest.mark.parametrize(("content", "code"), [(b"no picture", "not_an_image"), (b"\xff\xd8\xff", "truncated_image")])
def test_what_is_no_picture_is_refused(content: bytes, code: str) -> None:
    with pytest.raises(DecodeError) as caught:
        FaceDetector(lambda _: detections())(Frame.of(content, request_id="r1"))
    assert caught.value.code == code


def test_a_frame_of_too_many_pixels_is_refused() -> None:
    with pytest.raises(DecodeError) as caught:
        FaceDetector(lambda _: detections(), max_pixels=1000)(frame(picture(64, 48)))
    assert caught.value.code == "image_too_large"
