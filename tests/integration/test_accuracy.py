"""What the embedder that ships is good for, from picture to name, with the threshold it ships with."""

from pathlib import Path

import pytest
from _labelled import CALIBRATION_FOLD, TEST_FOLD, Labelled
from _protocol import calibrate, of_fold, verify

from facewire.vision.models import DEFAULT_EMBEDDER, find_spec, load_embedder

SPEC = find_spec(DEFAULT_EMBEDDER)


@pytest.fixture(scope="module")
def labelled(shared_data: Path) -> Labelled:
    return Labelled.read(shared_data, load_embedder(DEFAULT_EMBEDDER, threads=2))


@pytest.mark.timeout(600)  # reads 1,650 pictures, about 20 s on two free cores
def test_the_threshold_is_the_one_of_the_calibration_fold(labelled: Labelled) -> None:
    found = calibrate(labelled.pictures, of_fold(labelled.pairs, CALIBRATION_FOLD))
    assert found == pytest.approx(SPEC.threshold, abs=0.002)


def test_lfw_is_verified(labelled: Labelled) -> None:
    train, test = (of_fold(labelled.pairs, fold) for fold in (CALIBRATION_FOLD, TEST_FOLD))
    result = verify(labelled.pictures, train, test)
    assert result.accuracy >= 0.98
    assert result.true_accepts >= 0.97


def test_people_on_video_frames_are_named_and_other_actors_are_not(labelled: Labelled) -> None:
    result = labelled.of_frames(SPEC.threshold, SPEC.margin)
    assert result.right + result.missed == 16
    assert result.right >= 15
    assert result.wrong == 0
    assert (result.strangers, result.strangers_named) == (4, 0)


@pytest.mark.parametrize("fold", [TEST_FOLD, CALIBRATION_FOLD])
def test_among_strangers_few_are_named_and_nobody_wrongly(labelled: Labelled, fold: int) -> None:
    result = labelled.of_series(fold, SPEC.threshold, SPEC.margin)
    assert result.right + result.missed == 24
    assert result.wrong == 0
    assert result.miss_rate <= 0.35
    assert result.strangers >= 770
    assert result.stranger_rate <= 0.005
