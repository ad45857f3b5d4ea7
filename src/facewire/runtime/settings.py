"""The settings of each service, read once from the environment (prefix `FACEWIRE_`) into a frozen object.

A wrong value stops the start with one line that names the setting, the value's fault and nothing else.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

import pydantic_settings
from pydantic import AfterValidator, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from facewire.domain.errors import SettingsError
from facewire.domain.messages import explain

#: A request is waited for, and its id stands for it, a month at most.
LONGEST_WAIT_SECONDS = 31 * 86_400
#: Characters of a key that signs: as many bits, at the least, as guessing takes too long for.
LEAST_KEY_LENGTH = 32
#: What DynamoDB takes for the name of a table.
TABLE_NAME = r"^[A-Za-z0-9_.-]{3,255}$"
#: A century; dates beyond the year 9999 cannot be reckoned with.
LONGEST_KEPT_DAYS = 36_525


def _check_host(value: str) -> str:
    try:
        value.encode("idna")  # as the socket does it
    except UnicodeError as error:
        message = f"{value!r} is no host name: {error}"
        raise ValueError(message) from error
    return value


Host = Annotated[str, AfterValidator(_check_host)]


class Settings(BaseSettings):
    """What every service can be told."""

    model_config = SettingsConfigDict(env_prefix="FACEWIRE_", frozen=True, extra="ignore", env_ignore_empty=True)

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "console"] = "json"
    models_dir: Path | None = None
    drain_seconds: float = Field(default=5.0, ge=0, le=120)

    @classmethod
    def read(cls, **given: Any) -> Self:
        """Return the settings from the environment, `given` (those not None) before it; SettingsError in one line."""
        try:
            return cls(**{name: value for name, value in given.items() if value is not None})
        except ValidationError as error:
            raise SettingsError("wrong_setting", explain(error)) from error
        except pydantic_settings.SettingsError as error:
            raise SettingsError("wrong_setting", f"{error}: write lists as JSON, such as [0.6, 0.7, 0.7]") from error


class ProbeSettings(Settings):
    """Where a service without an HTTP API answers `/healthz`, `/readyz` and `/metrics`; nobody needs a key there."""

    probe_host: Host = "127.0.0.1"
    probe_port: int = Field(default=9090, ge=0, le=65535)


class MqttSettings(Settings):
    """How to reach the MQTT broker."""

    mqtt_host: Host = "127.0.0.1"
    mqtt_port: int = Field(default=1883, ge=0, le=65535)
    mqtt_username: str | None = None
    mqtt_password: str | None = None
    mqtt_ca_file: Path | None = None
    mqtt_cert_file: Path | None = None
    mqtt_key_file: Path | None = None
    #: Holds a secret part of the name of shared subscriptions' groups: brokers that check no subscriptions deal
    #: messages to whoever knows the name. The same for all who share.
    mqtt_share_file: Path | None = None


class AwsSettings(Settings):
    """Where AWS is, or what stands in for it, and which queues carry the messages.

    Credentials come from the places where every AWS client looks for them. A queue is named by its name or its URL.
    """

    region: str = "us-east-1"
    aws_endpoint_url: str | None = None
    request_queue: str = "facewire-requests"
    response_queue: str = "facewire-responses"
    #: Takes pictures in and archives them. Bucket names are unique over all of AWS: choose another there.
    bucket: str = Field(default="facewire", pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")
    #: Queues that are missing are made: for LocalStack, which forgets them when it restarts.
    aws_create_missing: bool = False


class StoreSettings(AwsSettings):
    """What keeps results and the gallery: an SQLite file in `data_dir`, or one DynamoDB table or two."""

    store: Literal["sqlite", "dynamodb"] = "sqlite"
    data_dir: Path = Path("facewire-data")
    #: What the gateway signs enrolments with and the recognizer checks them by, where the two share no `data_dir`.
    enroll_key: str | None = Field(default=None, min_length=LEAST_KEY_LENGTH)
    table: str = Field(default="facewire", pattern=TABLE_NAME)
    #: Where the gallery has a table of its own; without it the gallery is in `table`, beside the results.
    gallery_table: str | None = Field(default=None, pattern=TABLE_NAME)

    @property
    def table_of_gallery(self) -> str:
        """Return the name of the DynamoDB table that the gallery is in."""
        return self.gallery_table or self.table


class DetectorSettings(MqttSettings):
    """How frames are taken in and how faces are found in them."""

    detector_threads: int = Field(default=2, ge=1, le=64)
    min_face_size: int = Field(default=20, ge=12, le=2000)
    detector_thresholds: tuple[float, float, float] = (0.6, 0.7, 0.7)
    detector_factor: float = Field(default=0.709, gt=0.1, lt=0.95)
    max_pixels: int = Field(default=40_000_000, ge=1)
    inbox_bytes: int = Field(default=1024**3, ge=1024**2)
    inbox_policy: Literal["latest", "all"] = "all"
    id_window_seconds: float = Field(default=600.0, gt=0, le=LONGEST_WAIT_SECONDS)


class RecognizerSettings(Settings):
    """Which embedder names the faces, how sure it has to be, and how much it takes at once.

    With `attributes` expression, age and gender are guessed as well.
    """

    embedder: str = "dlib-resnet29"
    attributes: bool = False
    threshold: float | None = Field(default=None, ge=-1, le=1)
    margin: float | None = Field(default=None, ge=0, le=2)
    recognizer_threads: int = Field(default=1, ge=1, le=64)
    batch_messages: int = Field(default=8, ge=1, le=10)
    batch_wait_seconds: float = Field(default=0.005, ge=0, le=1)
    gallery_poll_seconds: float = Field(default=1.0, gt=0, le=60)


class GatewaySettings(MqttSettings):
    """Where the HTTP API listens, who may use it, and how long answers are kept."""

    host: Host = "127.0.0.1"
    port: int = Field(default=8080, ge=0, le=65535)
    keys_file: Path | None = None
    tls_cert_file: Path | None = None
    tls_key_file: Path | None = None
    answer_deadline_seconds: float = Field(default=600.0, gt=0, le=LONGEST_WAIT_SECONDS)
    id_window_seconds: float = Field(default=600.0, gt=0, le=LONGEST_WAIT_SECONDS)
    results_days: float = Field(default=7.0, gt=0, le=LONGEST_KEPT_DAYS)
    tombstone_days: float = Field(default=7.0, gt=0, le=LONGEST_KEPT_DAYS)
