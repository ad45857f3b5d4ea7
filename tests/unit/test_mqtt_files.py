from pathlib import Path

import pytest

from facewire.adapters.mqtt.tls import with_secret
from facewire.domain.errors import SettingsError
from facewire.runtime.settings import MqttSettings

FILTERS = ["$share/detectors/clients/+", "clients/+/results", "$share/other/#"]


def test_shared_groups_get_the_secret_and_nothing_else_does(tmp_path: Path) -> None:
    (tmp_path / "share").write_text("0123abcd\n")
    settings = MqttSettings.read(mqtt_share_file=tmp_path / "share")
    assert with_secret(FILTERS, settings) == [
        "$share/detectors-0123abcd/clients/+",
        "clients/+/results",
        "$share/other-0123abcd/#",
    ]
    assert with_secret(FILTERS, MqttSettings.read()) == FILTERS


@pytest.mark.parametrize("content", [None, b"", b"a/b", b"a+b", b"\xff"])
def test_a_secret_that_cannot_be_used_is_named_and_not_shown(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "share").write_bytes(content)
    with pytest.raises(SettingsError, match="share") as raised:
        with_secret(FILTERS, MqttSettings.read(mqtt_share_file=tmp_path / "share"))
    assert raised.value.code == "mqtt_share_file"
    assert "a/b" not in str(raised.value)
