"""The settings of the gateway as a service of its own."""

from pathlib import Path

from pydantic import Field

from facewire.runtime.settings import GatewaySettings, StoreSettings


class GatewayServiceSettings(GatewaySettings, StoreSettings):
    """How the gateway runs beside a broker, queues and stores that it shares with others.

    An upload is handed over again `handover_seconds` after the first time, and later after twice as long each time.
    `mqtt_max_bytes` is the broker's limit on a payload: 128 KiB on Greengrass and IoT Core.
    """

    outbox_bytes: int = Field(default=1024**3, ge=1024**2)
    handover_seconds: float = Field(default=15.0, gt=0, le=3600)
    mqtt_max_bytes: int = Field(default=16 * 1024**2, ge=1024)

    @property
    def outbox_file(self) -> Path:
        """Return the file that holds the outbox, one for all gateways of the folder, whatever keeps the results."""
        return self.data_dir / "outbox.db"
