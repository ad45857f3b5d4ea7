"""A stand-in for the Greengrass nucleus: its IPC on a UNIX socket, as far as components are concerned.

Frames are those of `vnd.amazon.eventstream`: total and header length, their CRC, headers, payload, and the CRC of it
all. Operations and shapes are those of the `GreengrassCoreIPC` model that awsiotsdk is generated from.
"""

import asyncio
import base64
import json
import struct
import zlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from facewire_greengrass.settings import matches

TOKEN = "token-of-this-start"  # noqa: S105 - of the stand-in
COMPONENT = "com.clientdevices.FaceDetection"
_MODEL = "aws.greengrass#"
_MESSAGE, _ERROR, _CONNECT, _CONNECT_ACK = 0, 1, 4, 5
_ACCEPTED, _TERMINATE = 1, 2
_INTEGER, _STRING = 4, 7
#: Sizes of header values that hold none of what is needed here, by type.
_SKIPPED = {0: 0, 1: 0, 2: 1, 3: 2, 5: 8, 8: 8, 9: 16}

Headers = Mapping[str, int | str]


def encode(headers: Headers, payload: bytes) -> bytes:
    block = b""
    for name, value in headers.items():
        block += bytes([len(name)]) + name.encode()
        if isinstance(value, int):
            block += struct.pack(">Bi", _INTEGER, value)
        else:
            block += struct.pack(">BH", _STRING, len(value.encode())) + value.encode()
    prelude = struct.pack(">II", 16 + len(block) + len(payload), len(block))
    frame = prelude + struct.pack(">I", zlib.crc32(prelude)) + block + payload
    return frame + struct.pack(">I", zlib.crc32(frame))


async def read(stream: asyncio.StreamReader) -> tuple[dict[str, int | str], bytes]:
    prelude = await stream.readexactly(12)
    total, size = struct.unpack(">II", prelude[:8])
    rest = await stream.readexactly(total - 12)
    assert struct.unpack(">I", rest[-4:])[0] == zlib.crc32(prelude + rest[:-4])
    return _headers(rest[:size]), rest[size:-4]


def _headers(block: bytes) -> dict[str, int | str]:
    headers: dict[str, int | str] = {}
    at = 0
    while at < len(block):
        name = block[at + 1 : at + 1 + block[at]].decode()
        at += 1 + block[at]
        kind, at = block[at], at + 1
        if kind == _INTEGER:
            headers[name] = struct.unpack_from(">i", block, at)[0]
            at += 4
        elif kind in _SKIPPED:
            at += _SKIPPED[kind]
        else:
            (length,) = struct.unpack_from(">H", block, at)
            headers[name] = block[at + 2 : at + 2 + length].decode()
            at += 2 + length
    return headers


class RefusalError(Exception):
    """An error of the model, by its name."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(name, message)
        self.name = name
        self.message = message


@dataclass(eq=False)
class Stream:
    """A subscription of a component."""

    operation: str
    request: dict[str, Any]
    number: int
    writer: asyncio.StreamWriter

    def send(self, shape: str, event: Any) -> None:
        self.writer.write(_frame(self.number, _MESSAGE, 0, shape, json.dumps(event).encode()))

    def end(self) -> None:
        self.writer.write(_frame(self.number, _MESSAGE, _TERMINATE, "", b""))


@dataclass
class FakeNucleus:
    """One component's nucleus: what it is told is noted, what it says is up to the test."""

    socket: Path
    configuration: dict[str, Any] = field(default_factory=dict)
    secrets: dict[str, str] = field(default_factory=dict)
    #: Operations that the component is not authorized for, and those that the nucleus does not know, cannot do just
    #: now, or does not answer until `answer_rest`.
    forbidden: set[str] = field(default_factory=set)
    unknown: set[str] = field(default_factory=set)
    unavailable: set[str] = field(default_factory=set)
    unanswered: set[str] = field(default_factory=set)
    streams: list[Stream] = field(default_factory=list)
    #: What the component has published: to local topics, to AWS IoT Core.
    local: list[tuple[str, bytes]] = field(default_factory=list)
    iot_core: list[tuple[str, bytes]] = field(default_factory=list)
    states: list[str] = field(default_factory=list)
    reports: list[dict[str, Any]] = field(default_factory=list)
    refused_tokens: int = 0
    #: The local topics whose subscriptions the component has given up itself.
    left: list[str] = field(default_factory=list)
    #: The operations that were asked for, in order.
    asked: list[str] = field(default_factory=list)
    _server: asyncio.Server | None = None
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)
    _rest: list[Callable[[], None]] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        """What a component finds in its environment."""
        return {"AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT": str(self.socket), "SVCUID": TOKEN}

    @property
    def topics(self) -> list[str]:
        """The local topics that are subscribed to."""
        return [stream.request["topic"] for stream in self.streams if stream.operation == "SubscribeToTopic"]

    async def start(self) -> None:
        self.socket.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._serve, self.socket)

    async def stop(self) -> None:
        """Take the socket away and cut all connections."""
        assert self._server is not None
        self._server.close()
        self.cut()
        await self._server.wait_closed()

    def cut(self) -> None:
        """Cut all connections; new ones are taken."""
        for writer in tuple(self._writers):
            writer.close()

    def publish(self, topic: str, payload: bytes) -> int:
        """Publish as the MQTT bridge does; return how many subscriptions get the message."""
        message = {"message": base64.b64encode(payload).decode(), "context": {"topic": topic}}
        return self._deliver(topic, {"binaryMessage": message})

    def publish_json(self, topic: str, message: dict[str, Any]) -> int:
        """Publish as another component may."""
        return self._deliver(topic, {"jsonMessage": {"message": message, "context": {"topic": topic}}})

    def configure(self, **values: Any) -> None:
        """Change the configuration and tell of each change."""
        self.configuration |= values
        for name in values:
            event = {"configurationUpdateEvent": {"componentName": COMPONENT, "keyPath": [name]}}
            self._tell("SubscribeToConfigurationUpdate", "ConfigurationUpdateEvents", event)

    def propose(self, deployment: str, configuration: dict[str, Any]) -> None:
        """Ask the component what it thinks of a configuration."""
        event = {"validateConfigurationUpdateEvent": {"configuration": configuration, "deploymentId": deployment}}
        self._tell("SubscribeToValidateConfigurationUpdates", "ValidateConfigurationUpdateEvents", event)

    def answer_rest(self) -> None:
        """Answer everything after all."""
        self.unanswered.clear()
        for reply in self._rest:
            reply()
        self._rest.clear()

    def end_streams(self) -> None:
        """End all subscriptions, but not the connections."""
        for stream in tuple(self.streams):
            stream.end()
        self.streams.clear()

    def _deliver(self, topic: str, message: dict[str, Any]) -> int:
        takers = [stream for stream in self.streams if stream.operation == "SubscribeToTopic"]
        takers = [stream for stream in takers if matches(stream.request["topic"], topic)]
        for stream in takers:
            stream.send("SubscriptionResponseMessage", message)
        return len(takers)

    def _tell(self, operation: str, shape: str, event: dict[str, Any]) -> None:
        for stream in self.streams:
            if stream.operation == operation:
                stream.send(shape, event)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        own: list[Stream] = []
        try:
            if await self._accept(reader, writer):
                while True:
                    self._answer(*await read(reader), writer, own)
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            self.streams = [stream for stream in self.streams if stream not in own]
            self._writers.discard(writer)
            writer.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        headers, payload = await read(reader)
        assert headers[":message-type"] == _CONNECT
        accepted = bool(json.loads(payload)["authToken"] == TOKEN)
        self.refused_tokens += not accepted
        flags = _ACCEPTED if accepted else 0
        writer.write(encode({":message-type": _CONNECT_ACK, ":message-flags": flags, ":stream-id": 0}, b""))
        return accepted

    def _answer(self, headers: Headers, payload: bytes, writer: asyncio.StreamWriter, own: list[Stream]) -> None:
        stream_id = int(headers.get(":stream-id", 0))
        if "operation" not in headers:
            self._end(stream_id, headers, writer, own)
            return
        operation = str(headers["operation"]).removeprefix(_MODEL)
        self.asked.append(operation)
        stream = Stream(operation, json.loads(payload or b"{}"), stream_id, writer)
        if operation in self.unanswered:
            self._rest.append(lambda: self._reply(stream, own))
        else:
            self._reply(stream, own)

    def _reply(self, stream: Stream, own: list[Stream]) -> None:
        operation, stream_id, writer = stream.operation, stream.number, stream.writer
        try:
            answer = self._perform(operation, stream.request)
        except RefusalError as refusal:
            body = json.dumps({"message": refusal.message}).encode()
            writer.write(_frame(stream_id, _ERROR, _TERMINATE, refusal.name, body))
            return
        lasts = operation.startswith("SubscribeTo")
        writer.write(
            _frame(stream_id, _MESSAGE, 0 if lasts else _TERMINATE, f"{operation}Response", json.dumps(answer).encode())
        )
        if lasts:
            own.append(stream)
            self.streams.append(stream)

    def _end(self, stream_id: int, headers: Headers, writer: asyncio.StreamWriter, own: list[Stream]) -> None:
        """The component closes a stream; the nucleus closes its side."""
        assert int(headers[":message-flags"]) & _TERMINATE
        ended = [stream for stream in own if stream.number == stream_id]
        self.left += [stream.request["topic"] for stream in ended if stream.operation == "SubscribeToTopic"]
        self.streams = [stream for stream in self.streams if stream not in ended]
        writer.write(_frame(stream_id, _MESSAGE, _TERMINATE, "", b""))

    def _perform(self, operation: str, request: dict[str, Any]) -> dict[str, Any]:
        if operation in self.forbidden:
            raise RefusalError("UnauthorizedError", f"{COMPONENT} is not authorized to perform {operation}")
        known: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
            "PublishToTopic": self._publish_to_topic,
            "PublishToIoTCore": self._publish_to_iot_core,
            "GetConfiguration": self._get_configuration,
            "GetSecretValue": self._get_secret_value,
            "UpdateState": self._update_state,
            "SendConfigurationValidityReport": self._send_configuration_validity_report,
            "SubscribeToTopic": lambda request: {"topicName": request["topic"]},
            "SubscribeToConfigurationUpdate": lambda _: {},
            "SubscribeToValidateConfigurationUpdates": lambda _: {},
        }
        if operation in self.unknown or operation not in known:
            # An error that the SDK's model does not have.
            raise RefusalError("UnsupportedOperation", f"{operation} is not offered")
        if operation in self.unavailable:
            raise RefusalError("ServiceError", f"{operation} cannot be done just now")
        return known[operation](request)

    def _publish_to_topic(self, request: dict[str, Any]) -> dict[str, Any]:
        body = request["publishMessage"]["binaryMessage"]["message"]
        self.local.append((request["topic"], base64.b64decode(body)))
        return {}

    def _publish_to_iot_core(self, request: dict[str, Any]) -> dict[str, Any]:
        assert request["qos"] == "1"
        self.iot_core.append((request["topicName"], base64.b64decode(request["payload"])))
        return {}

    def _update_state(self, request: dict[str, Any]) -> dict[str, Any]:
        self.states.append(request["state"])
        return {}

    def _send_configuration_validity_report(self, request: dict[str, Any]) -> dict[str, Any]:
        self.reports.append(request["configurationValidityReport"])
        return {}

    def _get_configuration(self, request: dict[str, Any]) -> dict[str, Any]:
        assert request["keyPath"] == []
        return {"componentName": COMPONENT, "value": self.configuration}

    def _get_secret_value(self, request: dict[str, Any]) -> dict[str, Any]:
        name = request["secretId"]
        if name not in self.secrets:
            raise RefusalError("ResourceNotFoundError", f"there is no secret {name}")
        return {"secretId": name, "versionId": "1", "secretValue": {"secretString": self.secrets[name]}}


def _frame(stream_id: int, kind: int, flags: int, shape: str, body: bytes) -> bytes:
    headers: dict[str, int | str] = {":message-type": kind, ":message-flags": flags, ":stream-id": stream_id}
    if shape:
        headers |= {":content-type": "application/json", "service-model-type": _MODEL + shape}
    return encode(headers, body)


@asynccontextmanager
async def fake_nucleus(socket: Path, **configuration: Any) -> AsyncIterator[FakeNucleus]:
    """Run a nucleus while the block does."""
    nucleus = FakeNucleus(socket, configuration)
    await nucleus.start()
    try:
        yield nucleus
    finally:
        await nucleus.stop()
