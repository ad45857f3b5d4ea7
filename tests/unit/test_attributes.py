"""The model of attributes over small graphs of the same shape, and the page that says how to have it."""

import re
from pathlib import Path

import numpy as np
import pytest
import yaml  # type: ignore[import-untyped]

from facewire.conversion.graph import GraphBuilder
from facewire.domain.errors import ModelError, RecognizeError
from facewire.domain.messages import FaceAttributes
from facewire.runtime.settings import RecognizerSettings
from facewire.vision.alignment import align
from facewire.vision.attributes import OnnxAttributeModel
from facewire.vision.models import ATTRIBUTES, find, load_attributes
from facewire.vision.onnx_session import open_session
from facewire_recognizer.worker import load_face_recognizer


def graph(*, genders: int = 2) -> GraphBuilder:
    """The more red, the happier; the more green, the older; the more blue, the more female."""
    built = GraphBuilder("small")
    colour = built.node("Flatten", [built.node("GlobalAveragePool", [built.input("input", ["n", 3, 112, 112])])])
    happy = np.zeros((7, 3))
    happy[1, 0] = 0.1
    built.output(built.node("Softmax", [built.dense(colour, happy, np.zeros(7))], name="emotions"), ["n", 7])
    built.output(built.dense(colour, np.array([[0.0, 1.0, 0.0]]), np.array([-5.0]), name="age"), ["n", 1])
    female = np.zeros((genders, 3))
    female[1, 2] = 0.1
    built.output(built.node("Softmax", [built.dense(colour, female, np.zeros(genders))], name="gender"), ["n", genders])
    return built


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> OnnxAttributeModel:
    path = tmp_path_factory.mktemp("model") / "small.onnx"
    graph().save(path)
    return OnnxAttributeModel(open_session(path), ATTRIBUTES)


def pictures(*colours: tuple[int, int, int]) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.array([np.full((112, 112, 3), colour, np.uint8) for colour in colours]).reshape(-1, 112, 112, 3)


def test_guesses_are_named(model: OnnxAttributeModel) -> None:
    (guess,) = model.guess(pictures((255, 45, 200)))
    assert guess.emotions.happy == pytest.approx(1, abs=1e-3)
    assert sum(dict(guess.emotions).values()) == pytest.approx(1, abs=1e-3)
    assert (guess.age, guess.gender, guess.gender_confidence) == (40, "female", 1)


def test_nobody_is_younger_than_nought(model: OnnxAttributeModel) -> None:
    assert model.guess(pictures((0, 0, 0)))[0].age == 0


def test_each_of_many_faces_gets_its_own(model: OnnxAttributeModel) -> None:
    guesses = model.guess(pictures(*((0, age, 0) for age in range(10, 60))))
    assert [guess.age for guess in guesses] == list(range(5, 55))
    assert model.guess(pictures()) == []


def test_numbers_that_are_none_are_an_error(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    graph().save(path)
    broken = path.read_bytes().replace(np.float32(-5).tobytes(), np.float32(np.nan).tobytes())
    with pytest.raises(RecognizeError, match="not finite"):
        OnnxAttributeModel(open_session(broken), ATTRIBUTES).guess(pictures((1, 2, 3)))


def test_another_graph_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.onnx"
    graph(genders=3).save(path)
    with pytest.raises(ModelError, match="must take and give") as caught:
        OnnxAttributeModel(open_session(path), ATTRIBUTES)
    assert caught.value.code == "broken"


def test_the_chip_is_upright_and_of_its_size() -> None:
    picture = np.zeros((200, 200, 3), np.uint8)
    eyes_mouth = np.array([[70, 60], [130, 60], [100, 100], [75, 135], [125, 135]], np.float64)
    picture[135:138, 75:125] = 255
    chip = align(picture, np.zeros(4), eyes_mouth, ATTRIBUTES)
    assert chip.shape == (112, 112, 3)
    lit = np.argwhere(chip[:, :, 0] > 100)
    assert lit[:, 0].mean() == pytest.approx(76, abs=3)
    assert lit[:, 1].mean() == pytest.approx(55, abs=2)


def test_the_setting_asks_for_a_model_that_has_to_be_here(tmp_path: Path) -> None:
    assert RecognizerSettings().attributes is False
    settings = RecognizerSettings(attributes=True, models_dir=tmp_path)
    with pytest.raises(ModelError, match="facewire models pull face-api-attributes") as caught:
        load_face_recognizer(settings)
    assert caught.value.code == "missing"
    graph().save(tmp_path / ATTRIBUTES.file)
    assert find("face-api-attributes", tmp_path) == tmp_path / ATTRIBUTES.file
    assert isinstance(load_attributes(tmp_path).guess(pictures((1, 2, 3)))[0], FaceAttributes)
    load_face_recognizer(settings)


def test_the_page_puts_the_model_where_containers_and_functions_look_for_it() -> None:
    root = Path(__file__).parents[2]
    page = (root / "docs" / "attributes.md").read_text()
    (override,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    (volume,) = yaml.safe_load(override)["services"]["recognizer"]["volumes"]
    recognizer = (root / "services" / "recognizer" / "Dockerfile").read_text()
    (folder,) = re.findall(r"FACEWIRE_MODELS_DIR=(/opt/facewire/\S+)", recognizer)
    assert volume.split(":") == [f"./build/models/{ATTRIBUTES.file}", f"{folder}/{ATTRIBUTES.file}", "ro"]
    package, version = re.findall(r"npm pack @(\S+)@(\S+)", ATTRIBUTES.source.rstrip(")"))[0]
    files = set(re.findall(r"[\w-]+-[\d.]+\.tgz", page))
    assert files == {f"{package.replace('/', '-')}-{version}.tgz"}
    (argument,) = re.findall(r"--build-arg (\w+)=", page)
    assert f"ARG {argument}=\n" in (root / "deploy" / "aws_lambda" / "Dockerfile").read_text()
