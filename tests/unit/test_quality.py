import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from facewire.domain.messages import FaceQuality
from facewire.domain.quality_gate import ENROLMENT, RECOGNITION, refusals
from facewire.vision.quality import assess

#: A head as the code has it, eye distance 60 px.
HEAD = 60 * np.array([[-0.5, 0, 0], [0.5, 0, 0], [0, 0.566, 0.42], [-0.446, 1.066, 0.03], [0.446, 1.066, 0.03]])
BOX = np.array([20.0, 10.0, 120.0, 140.0])
GOOD = FaceQuality(size=120, sharpness=80, brightness=120, yaw=0, pitch=0, roll=0)


def noise(scale: int = 4) -> NDArray[np.uint8]:
    coarse = np.random.default_rng(0).integers(0, 256, (160 // scale, 160 // scale, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((160, 160), Image.Resampling.BILINEAR))


def head(yaw: float, pitch: float, roll: float) -> NDArray[np.float64]:
    """Return the landmarks of a head turned by these degrees, seen from far away."""
    a, b, c = np.radians([yaw, pitch, roll])
    around_y = np.array([[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]])
    around_x = np.array([[1, 0, 0], [0, np.cos(b), np.sin(b)], [0, -np.sin(b), np.cos(b)]])
    around_z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    turned: NDArray[np.float64] = HEAD @ (around_z @ around_x @ around_y).T
    return turned[:, :2] + 70


@pytest.mark.parametrize("roll", [-90, -20, 0, 45, 170])
@pytest.mark.parametrize(("yaw", "pitch"), [(0, 0), (40, 0), (-60, 0), (0, 30), (0, -40)])
def test_a_turned_head_is_measured(yaw: float, pitch: float, roll: float) -> None:
    quality = assess(noise(), BOX, head(yaw, pitch, roll))
    assert (quality.yaw, quality.pitch, quality.roll) == pytest.approx((yaw, pitch, roll), abs=0.01)


def test_a_head_turned_both_ways_is_measured_roughly() -> None:
    quality = assess(noise(), BOX, head(25, 15, 10))
    assert (quality.yaw, quality.pitch, quality.roll) == pytest.approx((25, 15, 10), abs=8)


def test_size_is_the_short_side() -> None:
    assert assess(noise(), BOX, head(0, 0, 0)).size == 100


def test_brightness_is_the_mean_grey_inside_the_box() -> None:
    picture = np.zeros((160, 160, 3), np.uint8)
    picture[10:140, 20:120] = 77
    assert assess(picture, BOX, head(0, 0, 0)).brightness == pytest.approx(77, abs=0.5)


def test_blur_lowers_sharpness_step_by_step() -> None:
    picture = Image.fromarray(noise())
    values = [
        assess(np.asarray(picture.filter(ImageFilter.GaussianBlur(radius))), BOX, head(0, 0, 0)).sharpness
        for radius in (0, 1, 2, 4)
    ]
    assert values == sorted(values, reverse=True)
    assert values[0] > 4 * values[2]


def test_sharpness_does_not_depend_on_the_size_of_the_same_picture() -> None:
    small = Image.fromarray(noise(16))
    large = np.asarray(small.resize((640, 640), Image.Resampling.BICUBIC))
    values = [
        assess(picture, BOX * factor, head(0, 0, 0)).sharpness
        for picture, factor in ((np.asarray(small), 1), (large, 4))
    ]
    assert values[1] == pytest.approx(values[0], rel=0.25)


@given(st.lists(st.floats(-500, 500), min_size=4, max_size=4), st.integers(1, 30), st.integers(1, 30))
def test_any_box_is_measured(corners: list[float], height: int, width: int) -> None:
    quality = assess(np.full((height, width, 3), 9, np.uint8), np.array(corners), np.zeros((5, 2)))
    assert quality.size >= 0
    assert quality.brightness == pytest.approx(9)
    assert quality.sharpness == pytest.approx(0)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"size": 59.0}, "too_small"),
        ({"sharpness": 14.0}, "too_blurred"),
        ({"brightness": 19.0}, "too_dark"),
        ({"brightness": 236.0}, "too_bright"),
        ({"yaw": -51.0}, "bad_pose"),
        ({"pitch": 41.0}, "bad_pose"),
        ({"roll": 41.0}, "bad_pose"),
    ],
)
def test_enrolment_refuses_with_the_reason_what_recognition_takes(change: dict[str, float], reason: str) -> None:
    quality = GOOD.model_copy(update=change)
    assert refusals(quality, 0.999, ENROLMENT) == (reason,)
    assert refusals(quality, 0.999, RECOGNITION) == ()


def test_an_uncertain_detection_is_refused_and_every_reason_is_named() -> None:
    assert refusals(GOOD, 0.98, ENROLMENT) == ("low_confidence",)
    hopeless = FaceQuality(size=5, sharpness=0, brightness=3, yaw=80, pitch=0, roll=0)
    expected = ("too_small", "too_blurred", "too_dark", "bad_pose", "low_confidence")
    assert refusals(hopeless, 0.5, ENROLMENT) == expected
    assert refusals(hopeless, 0.5, RECOGNITION) == expected


def test_a_good_face_passes() -> None:
    assert refusals(GOOD, 0.999, ENROLMENT) == ()
