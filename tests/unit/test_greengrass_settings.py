from typing import Any

import pytest
from structlog.testing import capture_logs

from facewire.domain.errors import SettingsError
from facewire_greengrass.settings import ComponentSettings, NucleusSettings, matches


@pytest.fixture
def nucleus(monkeypatch: pytest.MonkeyPatch) -> NucleusSettings:
    monkeypatch.setenv("AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT", "/run/ipc.sock")
    monkeypatch.setenv("SVCUID", "token")
    monkeypatch.setenv("AWS_REGION", "eu-north-1")
    return NucleusSettings.read()


def test_the_configuration_is_read_by_the_names_of_facewires_settings(nucleus: NucleusSettings) -> None:
    configuration = {
        "accessControl": {"aws.greengrass.ipc.pubsub": {}},
        "python": "python3.11",
        "topic": "factory/hall/+",
        "detector_thresholds": [0.5, 0.6, 0.8],
        "min_face_size": 40.0,  # as a nucleus may hand numbers on
        "request_queue": "https://queues/requests",
        "results_queue": "",
    }
    with capture_logs() as logs:
        settings = ComponentSettings.of(configuration, nucleus)
    assert settings.topic == "factory/hall/+"
    assert settings.detector_thresholds == (0.5, 0.6, 0.8)
    assert settings.min_face_size == 40
    assert settings.request_queue == "https://queues/requests"
    assert settings.results_queue is None
    assert settings.region == "eu-north-1"
    assert not logs


def test_a_region_of_the_configuration_goes_before_that_of_the_nucleus(nucleus: NucleusSettings) -> None:
    assert ComponentSettings.of({"region": "us-west-2"}, nucleus).region == "us-west-2"


def test_names_that_mean_nothing_are_logged(nucleus: NucleusSettings) -> None:
    with capture_logs() as logs:
        ComponentSettings.of({"min_face_sice": 40}, nucleus)
    assert [line["names"] for line in logs] == [["min_face_sice"]]


@pytest.mark.parametrize(
    ("configuration", "said"),
    [
        ({"min_face_size": 3}, "min_face_size: .*greater than or equal to 12"),
        ({"topic": "clients/#/x"}, "topic: is no topic filter"),
        ({"topic": "clients/a+"}, "topic: is no topic filter"),
        ({"topic": "$share/all/clients/+"}, "topic: is no topic filter"),
        ({"results": "yes"}, "results: "),
        ({"results_topic": "clients/#"}, "results_topic: is no topic"),
        ({"results": "local", "topic": "clients/#"}, "results would come as frames"),
        ({"secrets": {"mqtt_pasword": "arn"}}, "mqtt_pasword: there is no such setting"),
        ({"drain_seconds": 60}, "drain_seconds: .*less than or equal to 2"),
    ],
)
def test_a_wrong_setting_is_said_in_one_line(nucleus: NucleusSettings, configuration: Any, said: str) -> None:
    with pytest.raises(SettingsError, match=said) as error:
        ComponentSettings.of(configuration, nucleus)
    assert "\n" not in str(error.value)


def test_results_that_nobody_asked_for_cannot_come_back(nucleus: NucleusSettings) -> None:
    assert ComponentSettings.of({"topic": "clients/#"}, nucleus).topic == "clients/#"


@pytest.mark.parametrize(
    ("topic_filter", "topic", "expected"),
    [
        ("clients/+", "clients/door", True),
        ("clients/+", "clients/door/results", False),
        ("clients/+", "clients", False),
        ("clients/door", "clients/door", True),
        ("clients/door", "clients/gate", False),
        ("clients/#", "clients/door/results", True),
        ("clients/#", "clients", True),
        ("#", "any/thing", True),
        ("+/+", "clients/door", True),
        ("+", "/x", False),
        ("/+", "/x", True),
    ],
)
def test_topics_match_filters_as_mqtt_says(topic_filter: str, topic: str, expected: bool) -> None:
    assert matches(topic_filter, topic) is expected
