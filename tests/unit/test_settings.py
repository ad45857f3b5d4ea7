"""The environment is read once; a wrong value is one clear line."""

import pytest

from facewire.domain.errors import SettingsError
from facewire.runtime.settings import DetectorSettings, GatewaySettings


def test_the_environment_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACEWIRE_MIN_FACE_SIZE", "40")
    monkeypatch.setenv("FACEWIRE_DETECTOR_THRESHOLDS", "[0.5, 0.6, 0.7]")
    settings = DetectorSettings.read()
    assert (settings.min_face_size, settings.detector_thresholds) == (40, (0.5, 0.6, 0.7))


def test_what_is_given_goes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACEWIRE_PORT", "9000")
    assert GatewaySettings.read(port=9001, host=None).port == 9001


def test_an_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACEWIRE_PORT", "")
    assert GatewaySettings.read().port == 8080


def test_a_wrong_value_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACEWIRE_PORT", "eighty")
    with pytest.raises(SettingsError) as caught:
        GatewaySettings.read()
    assert "port" in caught.value.detail
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RESULTS_DAYS", "1000000"),
        ("TOMBSTONE_DAYS", "inf"),
        ("ANSWER_DEADLINE_SECONDS", "inf"),
        ("ID_WINDOW_SECONDS", "1e300"),
    ],
)
def test_no_span_is_longer_than_can_be_reckoned_with(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"FACEWIRE_{name}", value)
    with pytest.raises(SettingsError, match=name.lower()):
        GatewaySettings.read()


def test_a_list_that_is_no_json_is_one_line_with_an_example(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACEWIRE_DETECTOR_THRESHOLDS", "0.6,0.7,0.7")
    with pytest.raises(SettingsError) as caught:
        DetectorSettings.read()
    assert "detector_thresholds" in caught.value.detail
    assert "[0.6, 0.7, 0.7]" in caught.value.detail
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["host", "mqtt_host"])
def test_what_cannot_be_looked_up_is_no_host(name: str) -> None:
    for host in ("a..b", "a" * 64, "\udcfc"):
        with pytest.raises(SettingsError, match=f"{name}: .* is no host name"):
            GatewaySettings.read(**{name: host})
    for host in ("127.0.0.1", "::1", "müller.example", "0.0.0.0"):  # noqa: S104 - only read
        assert getattr(GatewaySettings.read(**{name: host}), name) == host


def test_settings_do_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        GatewaySettings.read().port = 1  # type: ignore[misc]
