"""What the options of a camera on MQTT come to: the broker's settings and the camera's name."""

from pathlib import Path

from facewire.domain.names import read_device_name
from facewire.runtime.settings import MqttSettings

#: IANA's port for MQTT over TLS.
TLS_PORT = 8883


def camera_settings(host: str | None, port: int | None, bundle: Path | None) -> MqttSettings:
    """Return the broker's settings; a bundle is CA, certificate and key in one, and means TLS_PORT if none is given."""
    settings = MqttSettings.read(
        mqtt_host=host, mqtt_port=port, mqtt_ca_file=bundle, mqtt_cert_file=bundle, mqtt_key_file=bundle
    )
    if bundle is None or "mqtt_port" in settings.model_fields_set:
        return settings
    return settings.model_copy(update={"mqtt_port": TLS_PORT})


def camera_name(camera: str | None, bundle: Path | None) -> str | None:
    """Return the camera's name: as given, else the one that the bundle was made for, None without either.

    SettingsError `bundle` where the bundle does not say.
    """
    return camera if camera is not None or bundle is None else read_device_name(bundle)
