"""The component's configuration: read from the nucleus, followed as deployments change it, judged before they do."""

import asyncio
import json
from dataclasses import dataclass
from typing import Any

import structlog
from awsiot.greengrasscoreipc.model import (  # type: ignore[import-untyped]
    ConfigurationValidityReport,
    ConfigurationValidityStatus,
    GetConfigurationRequest,
    GetSecretValueRequest,
    SendConfigurationValidityReportRequest,
    SubscribeToConfigurationUpdateRequest,
    SubscribeToValidateConfigurationUpdatesRequest,
)

from facewire.adapters.mqtt.tls import tls_context
from facewire.domain.errors import ModelError, SettingsError, needs_operator
from facewire.runtime.backoff import growing_pauses, wait_event
from facewire.runtime.loading import load_face_detector
from facewire.stages.detect import FaceDetector
from facewire_greengrass.nucleus import Nucleus, Subscription
from facewire_greengrass.nucleus_errors import NucleusError
from facewire_greengrass.settings import ComponentSettings, NucleusSettings

#: A deployment changes one value after the other; they are read once nothing has changed for so long.
SETTLE_SECONDS = 0.2
#: Deployments whose configuration waits to be judged; there is one at a time.
_MAX_WAITING = 8
_LONGEST_PAUSE_SECONDS = 10.0

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Prepared:
    """Settings that can be used, with the detector they ask for."""

    settings: ComponentSettings
    detector: FaceDetector


class Configuration:
    """What the nucleus says the component's configuration is."""

    def __init__(self, nucleus: Nucleus, own: NucleusSettings) -> None:
        self._nucleus = nucleus
        self._own = own
        # What changes while there is no connection is not told: each new one may bring a change.
        self._changed = nucleus.connection_event()
        self._proposals: asyncio.Queue[Any] = asyncio.Queue(_MAX_WAITING)

    async def follow(self) -> None:
        """Listen to changes, and judge those that deployments intend; until cancelled."""
        updates = SubscribeToConfigurationUpdateRequest(key_path=[])
        await self._nucleus.subscribe(
            Subscription("subscribe_to_configuration_update", updates, lambda _: self._changed.set())
        )
        intended = SubscribeToValidateConfigurationUpdatesRequest()
        operation = "subscribe_to_validate_configuration_updates"
        await self._nucleus.subscribe(Subscription(operation, intended, self._note_proposal, optional=True))
        while True:
            await self._judge(await self._proposals.get())

    async def next(self, current: ComponentSettings | None) -> Prepared:
        """Return the settings once there are others than `current`, with their detector.

        What cannot be used is logged and leaves `current` in force; without it, SettingsError or ModelError.
        """
        pauses = growing_pauses(SETTLE_SECONDS, _LONGEST_PAUSE_SECONDS)
        while True:
            await self._settled()
            try:
                settings = await self._read()
                if settings != current:
                    return await asyncio.to_thread(_prepare, settings)
            except NucleusError as error:
                _log.warning("the configuration could not be read", error=error.code, detail=error.detail)
                await wait_event(self._changed, next(pauses))
                self._changed.set()
            except (SettingsError, ModelError) as error:
                if current is None:
                    raise
                _log.error("the configuration cannot be used; the one before stays", error=str(error))

    async def _settled(self) -> None:
        """Return once something may have changed, and nothing for a moment since."""
        await self._changed.wait()
        self._changed.clear()
        while await wait_event(self._changed, SETTLE_SECONDS):
            self._changed.clear()

    async def _read(self) -> ComponentSettings:
        answer = await self._nucleus.ask("get_configuration", GetConfigurationRequest(key_path=[]))
        settings = ComponentSettings.of(answer.value, self._own)
        secrets = {name: await self._secret(name, secret) for name, secret in settings.secrets.items()}
        return ComponentSettings.of({**answer.value, **secrets}, self._own) if secrets else settings

    async def _secret(self, setting: str, secret: str) -> str:
        """Return the setting's value: the secret's text, or its member of that name where the text is a JSON object."""
        try:
            answer = await self._nucleus.ask("get_secret_value", GetSecretValueRequest(secret_id=secret))
        except NucleusError as error:
            if needs_operator(error):
                raise SettingsError("secret", f"{setting}: {secret}: {error.detail}") from error
            raise
        return _value_in(answer.secret_value.secret_string, setting, secret)

    def _note_proposal(self, events: Any) -> None:
        try:
            self._proposals.put_nowait(events.validate_configuration_update_event)
        except asyncio.QueueFull:
            _log.warning("a deployment goes on unjudged: too many wait", limit=_MAX_WAITING)

    async def _judge(self, proposal: Any) -> None:
        """Tell the nucleus whether the component could work with what a deployment intends."""
        status, reason = ConfigurationValidityStatus.ACCEPTED, None
        try:
            await asyncio.to_thread(_prepare, ComponentSettings.of(proposal.configuration, self._own))
        except (SettingsError, ModelError) as error:
            status, reason = ConfigurationValidityStatus.REJECTED, str(error)
        report = ConfigurationValidityReport(status=status, deployment_id=proposal.deployment_id, message=reason)
        request = SendConfigurationValidityReportRequest(configuration_validity_report=report)
        try:
            await self._nucleus.ask("send_configuration_validity_report", request)
        except NucleusError as error:
            _log.warning("a deployment could not be told of its configuration", error=error.code, detail=error.detail)
        _log.info("a deployment's configuration was judged", deployment=proposal.deployment_id, status=status)


def _prepare(settings: ComponentSettings) -> Prepared:
    if settings.source == "broker":
        tls_context(settings)  # a file that is of no use is found here, while there are settings to go on with
    return Prepared(settings, load_face_detector(settings))


def _value_in(text: str | None, setting: str, secret: str) -> str:
    if text is None:
        raise SettingsError("secret", f"{setting}: {secret} holds no text: keep it as a string, or as JSON")
    try:
        members = json.loads(text)
    except ValueError:
        return text
    if not isinstance(members, dict):
        return text
    if not isinstance(members.get(setting), str):
        raise SettingsError("secret", f"{setting}: {secret} is a JSON object without a text {setting!r}")
    return str(members[setting])
