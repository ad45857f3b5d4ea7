"""What the files that the MQTT settings name are good for: TLS, and the secret of shared subscriptions."""

import re
import ssl
from collections.abc import Sequence

from facewire.domain.errors import SettingsError
from facewire.runtime.settings import MqttSettings

_SHARED = re.compile(r"^(\$share/[^/]+)/")


def tls_context(settings: MqttSettings) -> ssl.SSLContext | None:
    """Return the TLS context of the settings, None for a plain connection; SettingsError names the file at fault."""
    if settings.mqtt_ca_file is None and settings.mqtt_cert_file is None:
        return None
    try:
        context = ssl.create_default_context(cafile=settings.mqtt_ca_file)
    except OSError as error:
        raise SettingsError("mqtt_ca_file", f"{settings.mqtt_ca_file}: no usable CA certificate: {error}") from error
    if settings.mqtt_cert_file is not None:
        try:
            context.load_cert_chain(settings.mqtt_cert_file, settings.mqtt_key_file)
        except OSError as error:
            detail = f"{settings.mqtt_cert_file}, {settings.mqtt_key_file}: no usable certificate and key: {error}"
            raise SettingsError("mqtt_cert_file", detail) from error
    return context


def with_secret(filters: Sequence[str], settings: MqttSettings) -> list[str]:
    """Return the topic filters, `$share/<group>/…` as `$share/<group>-<secret>/…`; SettingsError without the secret."""
    path = settings.mqtt_share_file
    if path is None:
        return list(filters)
    try:
        secret = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError("mqtt_share_file", f"{path}: cannot be read: {error}") from error
    if not secret.isalnum():
        raise SettingsError("mqtt_share_file", f"{path}: must hold letters and digits and nothing else")
    return [_SHARED.sub(rf"\1-{secret}/", topic) for topic in filters]
