"""A camera's side of MQTT: frames go out on `clients/<camera>`, answers come in on `clients/<camera>/results`."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self

from facewire.adapters.mqtt.connection import MqttConnection
from facewire.domain.messages import RecognizedFaces
from facewire.runtime.settings import MqttSettings
from facewire_standalone.commands.client import ClientError, Picture

_CONNECT_SECONDS = 5.0


class Camera:
    """Publishes pictures as a device in the field does, and reads what comes back."""

    def __init__(self, connection: MqttConnection, name: str) -> None:
        self._connection = connection
        self._topic = f"clients/{name}"

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: MqttSettings, name: str) -> AsyncIterator[Self]:
        """Yield a camera that is connected and subscribed to its answers, before it sends anything.

        ClientError `unreachable` where the broker does not take the connection within 5 s.
        """
        async with MqttConnection.open(settings, subscriptions=[f"clients/{name}/results"]) as connection:
            try:
                async with asyncio.timeout(_CONNECT_SECONDS):
                    await connection.wait_connected()
            except TimeoutError as error:
                detail = f"no connection to the MQTT broker {connection.broker}: is `facewire up` running there?"
                raise ClientError("unreachable", detail) from error
            yield cls(connection, name)

    async def send(self, picture: Picture, request_id: str) -> None:
        """Publish one frame as JSON: when this returns the broker has taken it."""
        frame = {
            "request_id": request_id,
            "filename": picture.name,
            "content": base64.b64encode(picture.content).decode("ascii"),
        }
        await self.send_raw(json.dumps(frame).encode())

    async def send_raw(self, payload: bytes) -> None:
        """Publish a payload as it stands, with QoS 1; an encoded image is a frame without an id of its own."""
        await self._connection.publish(self._topic, payload)

    async def answers(self) -> AsyncIterator[RecognizedFaces]:
        """Yield the answers in the order in which they come; never ends by itself."""
        async for message in self._connection.messages():
            yield RecognizedFaces.from_bytes(message.payload)
            message.acknowledge()
