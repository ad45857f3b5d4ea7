"""Settings under the names of earlier deployments, and what a model file stands for."""

from pathlib import Path

import pytest

from facewire.domain.errors import ModelError, SettingsError
from facewire.vision.models import find
from facewire_lambda.recognition import load_face_recognizer
from facewire_lambda.settings import LambdaSettings

OLD = {
    "REGION": "eu-north-1",
    "SQS_REQUEST_QUEUE_URL": "https://sqs.eu-north-1.amazonaws.com/123456789012/req-queue",
    "SQS_RESPONSE_QUEUE_URL": "https://sqs.eu-north-1.amazonaws.com/123456789012/resp-queue",
    "MODEL_PATH": "resnetV1.pt",
    "MODEL_WT_PATH": "resnetV1_video_weights.pt",
}


def set_all(monkeypatch: pytest.MonkeyPatch, values: dict[str, str]) -> LambdaSettings:
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    return LambdaSettings.read()


def test_the_names_of_earlier_deployments_are_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = set_all(monkeypatch, OLD)
    assert settings.region == "eu-north-1"
    assert settings.request_queue == OLD["SQS_REQUEST_QUEUE_URL"]
    assert settings.response_queues == (OLD["SQS_RESPONSE_QUEUE_URL"],)
    assert (settings.model_file, settings.gallery_file) == (Path("resnetV1.pt"), Path("resnetV1_video_weights.pt"))
    assert settings.table is None


def test_our_own_names_count_first(monkeypatch: pytest.MonkeyPatch) -> None:
    own = {
        "FACEWIRE_REGION": "us-west-2",
        "FACEWIRE_REQUEST_QUEUE": "requests",
        "FACEWIRE_RESPONSE_QUEUE": "responses",
        "FACEWIRE_MODEL_FILE": "a.onnx",
        "FACEWIRE_GALLERY_FILE": "b.npz",
    }
    settings = set_all(monkeypatch, {**OLD, **own})
    assert (settings.region, settings.request_queue, settings.response_queues) == (
        "us-west-2",
        "requests",
        ("responses",),
    )
    assert (settings.model_file, settings.gallery_file) == (Path("a.onnx"), Path("b.npz"))


def test_the_region_of_the_function_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set_all(monkeypatch, {"AWS_REGION": "eu-west-1"}).region == "eu-west-1"
    assert set_all(monkeypatch, {"AWS_REGION": "eu-west-1", "REGION": "eu-north-1"}).region == "eu-north-1"


@pytest.mark.parametrize("value", ['["one", "two"]', "one,two", " one , two ", "one,,two,"])
def test_response_queues_may_be_several(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    assert set_all(monkeypatch, {"SQS_RESPONSE_QUEUE_URL": value}).response_queues == ("one", "two")


@pytest.mark.parametrize("value", ["[1]", '["one"', "[]", ",", '[" "]'])
def test_a_list_of_queues_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    with pytest.raises(SettingsError, match="RESPONSE_QUEUE"):
        set_all(monkeypatch, {"FACEWIRE_RESPONSE_QUEUE": value})


def test_a_function_that_needs_a_table_says_so() -> None:
    with pytest.raises(SettingsError, match="FACEWIRE_TABLE is not set"):
        LambdaSettings(gallery_table="people").required_table()
    with pytest.raises(SettingsError, match="FACEWIRE_GALLERY_TABLE is not set"):
        LambdaSettings().required_gallery()


def test_the_gallery_is_among_the_results_unless_it_has_a_table_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    assert LambdaSettings(table="both").required_gallery() == "both"
    settings = set_all(monkeypatch, {"FACEWIRE_TABLE": "results", "FACEWIRE_GALLERY_TABLE": "people"})
    assert (settings.required_table(), settings.required_gallery()) == ("results", "people")


def test_a_pt_file_stands_for_its_conversion_and_must_have_been_converted(tmp_path: Path) -> None:
    settings = LambdaSettings(model_file=Path("resnetV1.pt"), models_dir=tmp_path)
    with pytest.raises(ModelError, match=r"resnetV1\.pt was not converted: build the image with --build-arg"):
        load_face_recognizer(settings)


def test_an_onnx_file_is_the_embedder_of_its_name() -> None:
    settings = LambdaSettings(model_file=find("dlib-resnet29"), embedder="sface")
    assert load_face_recognizer(settings).embedder.spec.id == "dlib-resnet29"


def test_an_onnx_file_of_any_other_name_is_taken_for_facenet(tmp_path: Path) -> None:
    path = tmp_path / "resnetV1.onnx"
    path.write_bytes(find("dlib-resnet29").read_bytes())
    with pytest.raises(ModelError, match="facenet-vggface2 takes and gives"):
        load_face_recognizer(LambdaSettings(model_file=path))


def test_attributes_are_guessed_where_the_settings_ask_for_them(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"face-api-attributes\.onnx is not in"):
        load_face_recognizer(LambdaSettings(attributes=True, models_dir=tmp_path))
