"""A client of aiomqtt 2.5.1 for one connection; the one place that reaches into it, for what it does not do itself."""

import asyncio
import logging
import ssl
from collections.abc import Callable
from functools import partial
from typing import cast

import aiomqtt
from paho.mqtt.client import Client as PahoClient
from paho.mqtt.client import ConnectFlags
from paho.mqtt.enums import LogLevel

from facewire.runtime.settings import MqttSettings

#: Publishes that wait for their PUBACK at the same time; paho's own window is the same.
MAX_PUBLISHES = 20
#: A dead link is noticed after 1.5 times this.
KEEPALIVE_SECONDS = 15
CONNECT_SECONDS = 10.0

#: paho reports every failed read or write of a lost connection; one line of ours says it.
_paho_log = logging.getLogger("facewire.paho")
_paho_log.setLevel(logging.CRITICAL)


def paho(client: aiomqtt.Client) -> PahoClient:
    """Return the paho client inside: aiomqtt has no manual acknowledgement of its own."""
    return client._client  # noqa: SLF001 - tests/unit/test_mqtt.py fails when it changes


def new_client(
    settings: MqttSettings, tls: ssl.SSLContext | None, identifier: str | None, on_resumed: Callable[[], None]
) -> aiomqtt.Client:
    """Return a client with manual acknowledgement whose session, if it has an identifier, is persistent.

    `on_resumed` is called when the broker says that it still holds the session, before anything of it arrives.
    """
    client = aiomqtt.Client(
        settings.mqtt_host,
        settings.mqtt_port,
        username=settings.mqtt_username,
        password=settings.mqtt_password,
        identifier=identifier,
        clean_session=identifier is None,
        protocol=aiomqtt.ProtocolVersion.V311,
        keepalive=KEEPALIVE_SECONDS,
        timeout=CONNECT_SECONDS,
        tls_context=tls,
        logger=_paho_log,
        max_inflight_messages=MAX_PUBLISHES,
    )
    inner = paho(client)
    inner.manual_ack_set(True)
    inner.on_connect = partial(_on_connack, cast("Callable[..., None]", inner.on_connect), on_resumed)
    _tell_of_refusal(client)
    return client


def _on_connack(
    proceed: Callable[..., None],
    on_resumed: Callable[[], None],
    client: PahoClient,
    userdata: object,
    flags: ConnectFlags,
    *said: object,
) -> None:
    if flags.session_present:
        on_resumed()
    proceed(client, userdata, flags, *said)


def _tell_of_refusal(client: aiomqtt.Client) -> None:
    """Let a connection that the broker ends instead of accepting it fail at once, and say why.

    A broker refuses a certificate after the client has taken the TLS handshake for done (TLS 1.3). aiomqtt would wait
    for its time-out, and the reason would be in paho's log alone.
    """
    inner = paho(client)
    accepted: asyncio.Future[None] = client._connected  # noqa: SLF001 - nothing else ends the wait for CONNACK
    proceed = cast("Callable[..., None]", inner.on_disconnect)
    reasons = ["the broker ended the connection before accepting it"]

    def on_log(_client: PahoClient, _userdata: object, level: int, text: str) -> None:
        if level == LogLevel.MQTT_LOG_ERR:
            reasons.append(text)

    def on_disconnect(*said: object) -> None:
        if not accepted.done():
            accepted.set_exception(aiomqtt.MqttError(reasons[-1]))
        proceed(*said)

    # Nobody waits any more where the connection was given up first.
    accepted.add_done_callback(lambda done: done.cancelled() or done.exception())
    inner.on_log = on_log
    inner.on_disconnect = on_disconnect
