"""What the component is told: by the nucleus in the environment, and by its configuration in the deployment."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import structlog
from pydantic import AfterValidator, Field, SecretStr, model_validator

from facewire.runtime.settings import AwsSettings, DetectorSettings, Settings

#: Moquette's default for a message, and the limit of AWS IoT Core ("AWS IoT Core endpoints and quotas").
BROKER_MESSAGE_BYTES = 131_072
#: In the configuration, but for the nucleus and for the recipe's scripts.
_NOT_OURS = frozenset({"accessControl", "python"})
_FILTER = re.compile(r"(\+|#|[^+#$/][^+#/]*)(/(\+|[^+#/]*))*(/#)?")

_log = structlog.get_logger(__name__)


def _check_filter(value: str) -> str:
    if not _FILTER.fullmatch(value) or value.startswith("#/"):
        message = "is no topic filter: write levels between '/', '+' for any one of them, '#' for all that follow"
        raise ValueError(message)
    return value


def _check_results_topic(value: str) -> str:
    if not _FILTER.fullmatch(value) or value.count("+") > 1 or "#" in value:
        message = "is no topic: write levels between '/', and '+' where the camera's name belongs"
        raise ValueError(message)
    return value


TopicFilter = Annotated[str, AfterValidator(_check_filter)]
ResultsTopic = Annotated[str, AfterValidator(_check_results_topic)]


class NucleusSettings(Settings):
    """What the nucleus gives to every component: where its socket is, and the token that opens it."""

    socket: Path = Field(validation_alias="AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT")
    token: SecretStr = Field(validation_alias="SVCUID")
    region: str | None = Field(default=None, validation_alias="AWS_REGION")


class ComponentSettings(DetectorSettings, AwsSettings):
    """The component's configuration; the names are those of Facewire's settings.

    `source` says how frames come: `ipc`, relayed by the MQTT bridge, or `broker`, straight from the broker that the
    `mqtt_…` settings name. `results` says where answers go beside the response queue: nowhere, to the camera the way
    its frames came (`local`), or over AWS IoT Core. `results_queue` is a response queue of this core alone: what the
    cloud answers over it is published too. `secrets` maps settings to secrets of the secret manager.
    """

    source: Literal["ipc", "broker"] = "ipc"
    topic: TopicFilter = "clients/+"
    mqtt_client_id: str = Field(default="facewire-detector", min_length=1, max_length=128)
    message_bytes: int = Field(default=BROKER_MESSAGE_BYTES, ge=1024)
    results: Literal["off", "local", "iot_core"] = "off"
    results_topic: ResultsTopic = "clients/+/results"
    results_queue: str | None = None
    spool_bytes: int = Field(default=256 * 1024**2, ge=1024**2)
    secrets: dict[str, str] = Field(default_factory=dict)
    data_dir: Path = Path("facewire-data")
    #: The nucleus allows little time; frames not yet looked at stay in the inbox.
    drain_seconds: float = Field(default=1.5, ge=0, le=2)

    @classmethod
    def of(cls, configuration: Mapping[str, Any], nucleus: NucleusSettings) -> Self:
        """Return the settings in the component's configuration; SettingsError says in one line what is wrong.

        A value that is empty counts as not given. Names that mean nothing here are logged and passed over.
        """
        given = {
            name: value for name, value in configuration.items() if name not in _NOT_OURS and value not in ("", None)
        }
        if unknown := sorted(given.keys() - cls.model_fields.keys() - _NOT_OURS):
            _log.warning("the configuration has settings that nobody knows", names=unknown)
        known = {name: value for name, value in given.items() if name in cls.model_fields}
        return cls.read(**{"region": nucleus.region, "log_level": nucleus.log_level} | known)

    @model_validator(mode="after")
    def _check_secrets(self) -> Self:
        if unknown := sorted(self.secrets.keys() - type(self).model_fields.keys()):
            message = f"secrets: {', '.join(unknown)}: there is no such setting"
            raise ValueError(message)
        return self

    @model_validator(mode="after")
    def _check_results_do_not_return(self) -> Self:
        if self.results != "off" and matches(self.topic, self.results_topic):
            message = (
                f"results_topic: {self.results_topic!r} matches topic {self.topic!r}: results would come as frames"
            )
            raise ValueError(message)
        return self


def matches(topic_filter: str, topic: str) -> bool:
    """Return whether a topic is one of the filter's (MQTT 3.1.1, section 4.7)."""
    wanted, levels = topic_filter.split("/"), topic.split("/")
    if wanted[-1] == "#":
        wanted = wanted[:-1]
        levels = levels[: len(wanted)]
    return len(wanted) == len(levels) and all(want in ("+", level) for want, level in zip(wanted, levels, strict=True))
