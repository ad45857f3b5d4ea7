"""The embedded MQTT broker: rumqttd (from the package iotcore), MQTT 3.1.1, in a child process, kept in memory only.

Cameras reach it through `broker_front`, in the same process; our own connections go to its inner port.

What it holds is bounded per topic filter that was ever subscribed to: the newest `backlog_bytes` of a filter
`clients/...`, the newest OTHER_LOG_BYTES of any other, in segments, read or not; and what the filters of all cameras
may hold is bounded by FILTERS_BYTES: a subscription beyond that is refused. A subscriber that falls behind further
loses the oldest messages, although their publishers have their PUBACK; that is logged, and it is why we never stop
reading. A payload over the limit resets its connection, with no reason given. A restart forgets sessions and messages,
and, as MQTT has it, what is published before anybody has subscribed goes to nobody. A camera that needs every frame
answered publishes it again, under the same id, when the answer does not come.
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
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from facewire.domain.errors import SettingsError
from facewire.runtime.background import background

MAX_PAYLOAD_BYTES = 16 * 1024 * 1024
#: Kept of `clients/+`: 1,300 frames of 100 kB, seconds of what one machine takes in. It costs up to 1.5 times as much
#: memory, which is never given back.
BACKLOG_BYTES = 128 * 1024 * 1024
#: Kept of any other filter, such as `clients/+/results`.
OTHER_LOG_BYTES = 512 * 1024
#: Kept of all filters of cameras and other clients: 512 of them, or half as many beside one that takes frames as well.
FILTERS_BYTES = 256 * 1024 * 1024
START_SECONDS = 10.0
#: Between the end of a broker process that nobody asked to end and the next one.
RESTART_SECONDS = 0.1
_SEGMENTS = 8
#: A segment takes one message of any size: few of them, so that large ones are bounded too.
_OTHER_SEGMENTS = 2
_LOOPBACK = "127.0.0.1"
#: Connections that wait to be accepted; at the start they wait for the intake.
_ACCEPT_BACKLOG = 128
#: rumqttd's words for a subscriber that has lost messages.
_LOST = b"jumping to head"
_POLL_SECONDS = 0.02
_LONGEST_LINE = 1024 * 1024

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class EmbeddedBroker:
    """Where the broker listens for cameras, the port on 127.0.0.1 for ourselves, and its process's id at the start."""

    host: str
    port: int
    inner_port: int
    pid: int
    _keeper: "_Keeper" = field(repr=False)

    def let_cameras_in(self) -> None:
        """Accept those that have come since the start, and all that come from now on."""
        self._keeper.let_cameras_in()

    async def shut_cameras_out(self) -> None:
        """Accept no more connections, and nothing more over those there are: answers still go out over them.

        What was acknowledged until this returns is on its way to its subscribers, which take it at the inner port.
        """
        await self._keeper.shut_cameras_out()


@asynccontextmanager
async def embedded_broker(  # noqa: PLR0913 - all but the place by keyword
    host: str = "127.0.0.1",
    port: int = 1883,
    *,
    max_payload_bytes: int = MAX_PAYLOAD_BYTES,
    backlog_bytes: int = BACKLOG_BYTES,
    password_file: Path | None = None,
    closed: bool = False,
) -> AsyncIterator[EmbeddedBroker]:
    """Run a broker for as long as the block lasts; it takes frames when the block starts, or if `closed` when told to.

    Port 0 takes a free one. A broker process that dies is started again on the same port. `password_file` holds lines
    `user:password`; with it every client has to name a user, without it only a loopback `host` is taken. SettingsError
    says in one line what stands against it: `mqtt_host`, `mqtt_port` (taken), `mqtt_password_file`, `mqtt_broker`.
    """
    users = {} if password_file is None else read_password_file(password_file)
    with contextlib.ExitStack() as stack:
        place = stack.enter_context(_reserve(host, port, loopback_only=not users))
        inner = stack.enter_context(_reserve(_LOOPBACK, 0, loopback_only=True))
        _listen(place)
        address, inner_port = place.getsockname(), inner.getsockname()[1]
        config = _configuration(inner_port, max_payload_bytes, backlog_bytes, users)
        keeper = _Keeper(config, _Doors(place, inner_port, max(backlog_bytes, OTHER_LOG_BYTES)))
        await keeper.start()
        try:
            async with background(keeper.keep(), name="mqtt broker"):
                if not closed:
                    keeper.let_cameras_in()
                _log.info("the MQTT broker listens", host=address[0], port=address[1], passwords=bool(users))
                yield EmbeddedBroker(address[0], address[1], inner_port, keeper.process.pid, keeper)
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
    """Return a socket bound to the place: it is ours, and until it listens rumqttd can bind beside it."""
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


def _listen(place: socket.socket) -> None:
    try:
        place.listen(_ACCEPT_BACKLOG)
    except OSError as error:
        host, port = place.getsockname()[:2]
        raise SettingsError("mqtt_port", f"cannot listen on {host}:{port}: {error.strerror}") from error


def _configuration(port: int, max_payload_bytes: int, backlog_bytes: int, users: Mapping[str, str]) -> str:
    """Return rumqttd's TOML."""
    lines = [
        "id = 0",
        "[router]",
        "id = 0",
        "max_connections = 10000",
        "max_outgoing_packet_count = 200",
        f"max_segment_size = {OTHER_LOG_BYTES // _OTHER_SEGMENTS}",
        f"max_segment_count = {_OTHER_SEGMENTS}",
        '[router.custom_segment."clients/+"]',
        f"max_segment_size = {backlog_bytes // _SEGMENTS}",
        f"max_segment_count = {_SEGMENTS}",
        "[v4.mqtt]",
        'name = "mqtt"',
        f"listen = {_quoted(f'{_LOOPBACK}:{port}')}",
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


@dataclass(frozen=True, slots=True)
class _Doors:
    """The socket that cameras connect to, and the port behind it."""

    place: socket.socket
    inner_port: int
    frames_bytes: int

    def options(self) -> str:
        """Return what the front is told."""
        sizes = {"frames_bytes": self.frames_bytes, "other_bytes": OTHER_LOG_BYTES, "max_bytes": FILTERS_BYTES}
        return json.dumps({"listener": self.place.fileno(), "inner_port": self.inner_port, "filters": sizes})


class _Keeper:
    """Keeps a broker process running at one place, until cameras are shut out."""

    process: asyncio.subprocess.Process

    def __init__(self, config: str, doors: _Doors) -> None:
        self._config = config
        self._doors = doors
        self._let_in = False
        self._shut_out = False

    async def start(self) -> None:
        self.process = await _start(self._config, self._doors)

    async def keep(self) -> None:
        while True:
            await _log_output(self.process)
            code = await self.process.wait()
            port = self._doors.place.getsockname()[1] if self._doors.place.fileno() >= 0 else None
            _log.error("the MQTT broker ended", pid=self.process.pid, exit_code=code, port=port)
            if self._shut_out:
                return
            await asyncio.sleep(RESTART_SECONDS)
            await self.start()
            if self._let_in:
                self._order()
            _log.info("the MQTT broker listens again", pid=self.process.pid, port=port)

    def let_cameras_in(self) -> None:
        self._let_in = True
        self._order()

    async def shut_cameras_out(self) -> None:
        """Return once the process has answered, or is gone."""
        self._shut_out = True
        self._doors.place.close()
        self._order()
        if self.process.stdout is not None:
            await self.process.stdout.readline()

    def _order(self) -> None:
        if self.process.stdin is not None:
            self.process.stdin.write(b"\n")


async def _start(config: str, doors: _Doors) -> asyncio.subprocess.Process:
    # The file may hold passwords: it is gone as soon as the broker has read it.
    with tempfile.TemporaryDirectory(prefix="facewire-broker-") as folder:
        path = Path(folder) / "rumqttd.toml"
        path.touch(mode=0o600)
        path.write_text(config, encoding="utf-8")
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "facewire_standalone.broker_process", str(path), doors.options()),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            pass_fds=[doors.place.fileno()],
            limit=_LONGEST_LINE,
        )
        try:
            await _until_listening(process, (_LOOPBACK, doors.inner_port))
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
