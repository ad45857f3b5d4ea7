"""The embedded MQTT broker: rumqttd (from the package iotcore), MQTT 3.1.1, in a child process, kept in memory only.

What it holds is bounded per topic filter that somebody has ever subscribed to: the newest `backlog_bytes` of
`clients/+`, the newest OTHER_LOG_BYTES of any other filter, in segments, read or not. A subscriber that falls behind
further than that loses the oldest messages, although their publishers have their PUBACK; that is logged, and it is why
nobody here stops reading. A payload over the limit resets its connection, with no reason given. A restart forgets
sessions and messages, and, as MQTT has it, what is published before anybody has subscribed goes to nobody. A camera
that needs every frame answered publishes it again, under the same id, when the answer does not come.
"""

import asyncio
import contextlib
import ipaddress
import json
import socket
import stat
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog

from facewire.domain.errors import SettingsError
from facewire.runtime.background import background

MAX_PAYLOAD_BYTES = 16 * 1024 * 1024
#: Kept of `clients/+`: 1,300 frames of 100 kB, seconds of what one machine takes in. It costs up to 1.5 times as much
#: memory, which is never given back.
BACKLOG_BYTES = 128 * 1024 * 1024
#: Kept of any other filter, such as `clients/+/results`.
OTHER_LOG_BYTES = 8 * 1024 * 1024
START_SECONDS = 10.0
#: Between the end of a broker process that nobody asked to end and the next one.
RESTART_SECONDS = 0.1
_SEGMENTS = 8
#: rumqttd's words for a subscriber that has lost messages.
_LOST = b"jumping to head"
_POLL_SECONDS = 0.02
_LONGEST_LINE = 1024 * 1024

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class EmbeddedBroker:
    """Where the broker listens, and the id of its process at the start."""

    host: str
    port: int
    pid: int


@asynccontextmanager
async def embedded_broker(
    host: str = "127.0.0.1",
    port: int = 1883,
    *,
    max_payload_bytes: int = MAX_PAYLOAD_BYTES,
    backlog_bytes: int = BACKLOG_BYTES,
    password_file: Path | None = None,
) -> AsyncIterator[EmbeddedBroker]:
    """Run a broker for as long as the block lasts; it accepts connections when the block starts.

    Port 0 takes a free one. A broker process that dies is started again on the same port. `password_file` holds lines
    `user:password`; with it every client has to name a user, without it only a loopback `host` is taken. SettingsError
    says in one line what stands against it: `mqtt_host`, `mqtt_port` (taken), `mqtt_password_file`, `mqtt_broker`.
    """
    users = {} if password_file is None else read_password_file(password_file)
    with contextlib.ExitStack() as stack:
        place = _reserve(host, port, loopback_only=not users)
        stack.enter_context(place)
        address = place.getsockname()
        config = _configuration(address, max_payload_bytes, backlog_bytes, users)
        process = await _start(config, address)
        keeper = _Keeper(config, address, process)
        try:
            async with background(keeper.keep(), name="mqtt broker"):
                _log.info("the MQTT broker listens", host=address[0], port=address[1], passwords=bool(users))
                yield EmbeddedBroker(address[0], address[1], process.pid)
        finally:
            await _end(keeper.process)


def read_password_file(path: Path) -> dict[str, str]:
    """Return the passwords by user from lines `user:password`; blank lines and lines with `#` first are passed over.

    SettingsError `mqtt_password_file` where the file cannot be read, others may read it, or it names nobody.
    """
    try:
        mode = path.stat().st_mode
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError("mqtt_password_file", f"{path}: cannot be read: {error}") from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise SettingsError("mqtt_password_file", f"{path}: others may read it: chmod 600")
    users: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        user, colon, password = line.partition(":")
        if not (user and colon and password):
            raise SettingsError("mqtt_password_file", f"{path}: line {number} is not user:password")
        users[user] = password
    if not users:
        raise SettingsError("mqtt_password_file", f"{path}: names no user")
    return users


def _reserve(host: str, port: int, *, loopback_only: bool) -> socket.socket:
    """Return a socket bound to the place, never listening: the place is ours, and rumqttd can bind beside it."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise SettingsError("mqtt_host", f"{host}: no address of this machine: {error}") from error
    if loopback_only and not ipaddress.ip_address(address[0]).is_loopback:
        detail = f"{host} can be reached from outside: give a password file, or listen on 127.0.0.1"
        raise SettingsError("mqtt_host", detail)
    place = socket.socket(family, kind, protocol)
    try:
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        place.bind(address)
    except OSError as error:
        place.close()
        raise SettingsError("mqtt_port", f"cannot listen on {host}:{port}: {error.strerror}") from error
    return place


def _configuration(
    address: tuple[str, int], max_payload_bytes: int, backlog_bytes: int, users: Mapping[str, str]
) -> str:
    """Return rumqttd's TOML."""
    host, port = address[:2]
    listen = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    lines = [
        "id = 0",
        "[router]",
        "id = 0",
        "max_connections = 10000",
        "max_outgoing_packet_count = 200",
        f"max_segment_size = {OTHER_LOG_BYTES // _SEGMENTS}",
        f"max_segment_count = {_SEGMENTS}",
        '[router.custom_segment."clients/+"]',
        f"max_segment_size = {backlog_bytes // _SEGMENTS}",
        f"max_segment_count = {_SEGMENTS}",
        "[v4.mqtt]",
        'name = "mqtt"',
        f"listen = {_quoted(listen)}",
        "next_connection_delay_ms = 1",
        "[v4.mqtt.connections]",
        "connection_timeout_ms = 10000",
        f"max_payload_size = {max_payload_bytes}",
        "max_inflight_count = 100",
        "dynamic_filters = true",
    ]
    if users:
        lines.append("[v4.mqtt.connections.auth]")
        lines += [f"{_quoted(user)} = {_quoted(password)}" for user, password in users.items()]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """Return `text` as a TOML string: with the characters left as they are, JSON writes the same."""
    return json.dumps(text, ensure_ascii=False)


class _Keeper:
    """Keeps a broker process running at one place."""

    def __init__(self, config: str, address: tuple[str, int], process: asyncio.subprocess.Process) -> None:
        self.process = process
        self._config = config
        self._address = address

    async def keep(self) -> None:
        while True:
            await _log_output(self.process)
            code = await self.process.wait()
            _log.error("the MQTT broker ended", pid=self.process.pid, exit_code=code, port=self._address[1])
            await asyncio.sleep(RESTART_SECONDS)
            self.process = await _start(self._config, self._address)
            _log.info("the MQTT broker listens again", pid=self.process.pid, port=self._address[1])


async def _start(config: str, address: tuple[str, int]) -> asyncio.subprocess.Process:
    # The file may hold passwords: it is gone as soon as the broker has read it.
    with tempfile.TemporaryDirectory(prefix="facewire-broker-") as folder:
        path = Path(folder) / "rumqttd.toml"
        path.touch(mode=0o600)
        path.write_text(config, encoding="utf-8")
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "facewire_standalone.broker_process", str(path)),
            stdin=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=_LONGEST_LINE,
        )
        try:
            await _until_listening(process, address)
        except BaseException:
            await _end(process)
            raise
    return process


async def _until_listening(process: asyncio.subprocess.Process, address: tuple[str, int]) -> None:
    deadline = asyncio.get_running_loop().time() + START_SECONDS
    while not await _accepts(address):
        if process.returncode is not None:
            await _log_output(process)
            raise SettingsError("mqtt_broker", f"the MQTT broker ended at once with exit code {process.returncode}")
        if asyncio.get_running_loop().time() > deadline:
            detail = f"the MQTT broker did not listen on {address[0]}:{address[1]} within {START_SECONDS:.0f} s"
            raise SettingsError("mqtt_broker", detail)
        await asyncio.sleep(_POLL_SECONDS)


async def _log_output(process: asyncio.subprocess.Process) -> None:
    """Log what the process has to say until it ends."""
    if process.stderr is None:
        return
    async for line in process.stderr:
        if _LOST in line:
            _log.warning("the MQTT broker dropped the oldest messages of a slow subscriber")
        else:
            _log.warning("the MQTT broker says", line=line.decode(errors="replace").rstrip())


async def _accepts(address: tuple[str, int]) -> bool:
    try:
        _, writer = await asyncio.open_connection(address[0], address[1])
    except OSError:
        return False
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return True


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()
    await process.wait()
