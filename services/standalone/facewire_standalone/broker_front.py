"""What cameras reach of the embedded broker, which itself can neither stop listening nor refuse a subscription.

The front passes on the bytes of every connection to rumqttd and back, in the broker's own process. It accepts nobody
before it is told to. From the stop on it accepts nobody again, and passes on nothing more that cameras send: so nothing
more is acknowledged to them, while answers still go out.
"""

import asyncio
import socket
import sys
from collections.abc import Iterator
from typing import cast
from weakref import WeakSet

_SUBSCRIBE = 8
#: No camera names so many topic filters in one packet.
_LONGEST_SUBSCRIBE = 64 * 1024
#: Where the system is out of sockets.
_PAUSE_SECONDS = 0.1
_LONGEST_HEAD = 5
_MORE_DIGITS = 0x80


class RefusedError(Exception):
    """What a camera sends is not passed on, and its connection ends; says what was refused and why."""


class Filters:
    """The topic filters that cameras have ever subscribed to: rumqttd keeps messages for each, read or not.

    `frames_bytes` is what it keeps of a filter `clients/...`, `other_bytes` of any other, `max_bytes` bounds the sum.
    """

    def __init__(self, *, frames_bytes: int, other_bytes: int, max_bytes: int) -> None:
        self._frames_bytes = frames_bytes
        self._other_bytes = other_bytes
        self._max_bytes = max_bytes
        self._held = 0
        self._known: set[str] = set()

    def add(self, topic_filter: str) -> None:
        """Note a filter; RefusedError where what is kept of all of them would pass the bound."""
        if topic_filter.startswith("$share/"):
            topic_filter = topic_filter.split("/", 2)[-1]
        if topic_filter in self._known:
            return
        size = self._frames_bytes if _is_of_frames(topic_filter) else self._other_bytes
        if self._held + size > self._max_bytes:
            message = (
                f"a subscription is refused: {len(self._known)} topic filters may take {self._held:,} of "
                f"{self._max_bytes:,} bytes: subscribe to fewer, such as clients/+/results for all cameras"
            )
            raise RefusedError(message)
        self._held += size
        self._known.add(topic_filter)


class Packets:
    """Looks through the MQTT 3.1.1 packets that one camera sends, in whatever pieces they arrive."""

    def __init__(self, filters: Filters) -> None:
        self._filters = filters
        self._rest = 0
        self._head = b""

    def look_through(self, data: bytes) -> bytes:
        """Return what can be passed on of what has arrived; RefusedError for a SUBSCRIBE that is not to be.

        A SUBSCRIBE, and the head of any packet, is kept back until it is here as a whole.
        """
        if self._rest >= len(data):
            self._rest -= len(data)
            return data
        data = self._head + data
        position = self._rest
        while (packet := _packet_at(data, position)) is not None:
            start, end = packet
            if data[position] >> 4 == _SUBSCRIBE:
                if end - start > _LONGEST_SUBSCRIBE:
                    message = "a subscription is refused: it names too many topic filters at once"
                    raise RefusedError(message)
                if end > len(data):
                    break
                for topic_filter in _filters_in(data[start:end]):
                    self._filters.add(topic_filter)
            position = end
        return self._keep_back(data, position)

    def _keep_back(self, data: bytes, position: int) -> bytes:
        self._rest = max(0, position - len(data))
        self._head = data[position:]
        return data[:position]


class _End(asyncio.Protocol):
    """One end of a connection through the front: what it receives goes to the `other`."""

    def __init__(self, packets: Packets | None = None) -> None:
        self.other: _End
        self._packets = packets
        self._transport: asyncio.Transport | None = None
        self._is_muted = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        if self._is_muted:
            self.pause()

    def data_received(self, data: bytes) -> None:
        try:
            self.other.write(data if self._packets is None else self._packets.look_through(data))
        except RefusedError as error:
            print(error, file=sys.stderr, flush=True)  # noqa: T201 - to the parent, which logs it
            self.close()

    def pause_writing(self) -> None:
        self.other.pause()

    def resume_writing(self) -> None:
        self.other.resume()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - either way the other end ends too
        self.other.close()

    def write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def pause(self) -> None:
        if self._transport is not None:
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._transport is not None and not self._is_muted:
            self._transport.resume_reading()

    def mute(self) -> None:
        """Read nothing more from here, for good."""
        self._is_muted = True
        self.pause()


class Front:
    """Connects those that come to `listener` with rumqttd at the address `inner`."""

    def __init__(self, listener: socket.socket, inner: tuple[str, int], filters: Filters) -> None:
        listener.setblocking(False)
        self._listener = listener
        self._inner = inner
        self._filters = filters
        self._cameras = WeakSet[_End]()

    async def accept(self) -> None:
        """Accept cameras until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(self._listener)
                await self._join(connection)
            except OSError as error:
                print(f"a camera cannot connect: {error}", file=sys.stderr, flush=True)  # noqa: T201 - see above
                await asyncio.sleep(_PAUSE_SECONDS)

    def stop(self) -> None:
        """Let nobody in any more, and hear nothing more from those that are in."""
        self._listener.close()
        for camera in self._cameras:
            camera.mute()

    async def _join(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        camera, broker = _End(Packets(self._filters)), _End()
        camera.other, broker.other = broker, camera
        try:
            await loop.create_connection(lambda: broker, *self._inner)
        except BaseException:
            connection.close()
            raise
        self._cameras.add(camera)
        await loop.connect_accepted_socket(lambda: camera, connection)


def _packet_at(data: bytes, position: int) -> tuple[int, int] | None:
    """Return where the body of the packet at `position` starts and ends; None while its head is not here."""
    length = 0
    for digit in range(1, _LONGEST_HEAD):
        if position + digit >= len(data):
            return None
        byte = data[position + digit]
        length |= (byte & ~_MORE_DIGITS) << (7 * (digit - 1))
        if not byte & _MORE_DIGITS:
            start = position + digit + 1
            return start, start + length
    message = "a connection is refused: what a camera sends over it is not MQTT"
    raise RefusedError(message)


def _filters_in(body: bytes) -> Iterator[str]:
    """Yield the topic filters of a SUBSCRIBE: after the packet identifier each has its length and a QoS behind it."""
    position = 2
    while position + 2 <= len(body):
        start = position + 2
        end = start + int.from_bytes(body[position:start], "big")
        yield body[start:end].decode(errors="replace")
        position = end + 1


def _is_of_frames(topic_filter: str) -> bool:
    """Return whether rumqttd keeps the backlog of frames for it: its `matches` takes a filter for a topic."""
    root, _, name = topic_filter.partition("/")
    return root == "clients" and "/" not in name
