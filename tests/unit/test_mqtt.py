import asyncio
import importlib.metadata
import itertools
import random
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiomqtt
import pytest
from paho.mqtt.client import Client as PahoClient

from facewire.adapters.mqtt.acknowledgements import OrderedAcknowledger
from facewire.adapters.mqtt.client import paho
from facewire.adapters.mqtt.connection import MqttConnection
from facewire.domain.errors import QueueError, SettingsError
from facewire.runtime.settings import MqttSettings

CONNACK = b"\x20\x02\x00\x00"


def test_acknowledgements_leave_in_order_of_arrival_whatever_order_work_ends_in() -> None:
    for order in itertools.permutations(range(5)):
        sent: list[int] = []
        acknowledger = OrderedAcknowledger(sent.append)
        arrivals = [acknowledger.arrived(mid) for mid in (7, 8, 9, 1, 2)]
        for ended, index in enumerate(order, start=1):
            acknowledger.done(arrivals[index])
            assert sent == [7, 8, 9, 1, 2][: len(sent)]
            assert len(sent) <= ended
        assert sent == [7, 8, 9, 1, 2]


def test_the_head_is_acknowledged_as_soon_as_it_is_safe() -> None:
    sent: list[int] = []
    acknowledger = OrderedAcknowledger(sent.append)
    first, second, third = (acknowledger.arrived(mid) for mid in (1, 2, 3))
    acknowledger.done(first)
    assert sent == [1]
    acknowledger.done(third)
    assert sent == [1]
    acknowledger.done(second)
    assert sent == [1, 2, 3]


def test_random_interleaving_of_arrivals_and_ends_keeps_the_order() -> None:
    chance = random.Random(3)
    sent: list[int] = []
    acknowledger = OrderedAcknowledger(sent.append)
    open_ones = []
    for mid in range(500):
        open_ones.append(acknowledger.arrived(mid))
        while len(open_ones) > 20 or (open_ones and chance.random() < 0.4):
            acknowledger.done(open_ones.pop(chance.randrange(len(open_ones))))
    for arrival in open_ones:
        acknowledger.done(arrival)
    assert sent == list(range(500))


def test_nothing_is_acknowledged_on_another_connection() -> None:
    sent: list[int] = []
    acknowledger = OrderedAcknowledger(sent.append)
    arrival = acknowledger.arrived(1)
    acknowledger.forget()
    acknowledger.done(arrival)
    assert sent == []


async def test_the_private_way_to_manual_acknowledgement_is_still_there() -> None:
    assert importlib.metadata.version("aiomqtt") == "2.5.1"
    inner = paho(aiomqtt.Client("127.0.0.1", identifier="x"))
    assert isinstance(inner, PahoClient)
    assert inner._manual_ack is False
    inner.manual_ack_set(True)
    assert inner._manual_ack is True


async def test_publish_without_a_connection_raises_at_once(unused_port: int) -> None:
    settings = MqttSettings.read(mqtt_port=unused_port)
    async with MqttConnection.open(settings) as connection:
        assert not connection.connected
        with pytest.raises(QueueError) as raised:
            await connection.publish("clients/a/results", b"{}")
    assert raised.value.code == "mqtt_not_connected"
    assert str(unused_port) in raised.value.detail


async def test_what_the_block_raises_comes_out_unwrapped(unused_port: int) -> None:
    with pytest.raises(KeyError, match="mine"):
        async with MqttConnection.open(MqttSettings.read(mqtt_port=unused_port)):
            raise KeyError("mine")


async def test_a_broker_that_never_answers_can_be_left_at_once() -> None:
    async with _server(b"") as (settings, accepted), asyncio.timeout(5), MqttConnection.open(settings) as connection:
        await accepted.wait()
        assert not connection.connected


async def test_a_lost_connection_fails_a_pending_publish_promptly() -> None:
    """The server takes the connection, hears the PUBLISH, and hangs up instead of a PUBACK."""
    async with (
        _server(CONNACK, hang_up_after=b"never acknowledged") as (settings, _),
        MqttConnection.open(settings) as connection,
    ):
        async with asyncio.timeout(5):
            await connection.wait_connected()
            with pytest.raises(QueueError, match="lost") as raised:
                await connection.publish("clients/a/results", b"never acknowledged", timeout=60)
    assert raised.value.code == "mqtt_publish"


async def test_a_missing_puback_fails_a_publish_after_its_time() -> None:
    async with _server(CONNACK) as (settings, _), asyncio.timeout(5), MqttConnection.open(settings) as connection:
        await connection.wait_connected()
        with pytest.raises(QueueError, match="timed out") as raised:
            await connection.publish("clients/a/results", b"x", timeout=0.1)
    assert raised.value.code == "mqtt_publish"


async def test_qos_0_that_nobody_takes_is_bounded_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("facewire.adapters.mqtt.connection.MAX_UNGUARANTEED_BYTES", 10)
    publish = b"\x30\x08\x00\x03c/a123"  # QoS 0, topic c/a, payload 123
    async with _server(CONNACK + publish * 5) as (settings, _), MqttConnection.open(settings) as connection:
        async with asyncio.timeout(5):
            await _until(lambda: connection.dropped == 2)
            received = connection.messages()
            taken = [await anext(received) for _ in range(3)]
            assert [message.payload for message in taken] == [b"123"] * 3
            assert connection._unguaranteed_bytes == 0
            taken[0].acknowledge()


@pytest.mark.parametrize(
    ("session_present", "expected"),
    [(1, [b"end", b"one", b"two", b"end"]), (0, [b"one", b"two", b"end", b"one", b"two", b"end"])],
    ids=["the broker sends it again", "the broker has forgotten it"],
)
async def test_what_nobody_took_waits_once_though_the_connection_was_lost(
    session_present: int, expected: list[bytes]
) -> None:
    connack = bytes([0x20, 2, session_present, 0])
    window = b"\x32\x0a\x00\x03c/a\x00\x01one" + b"\x32\x0a\x00\x03c/a\x00\x02two"  # QoS 1, topic c/a
    qos_0 = b"\x30\x08\x00\x03c/aend"
    async with (
        asyncio.timeout(10),
        _server(connack + window + qos_0) as (settings, _),
        MqttConnection.open(settings, identifier="detector") as connection,
    ):
        await _until(lambda: connection._arrived.qsize() == 3)
        first = connection._session
        assert first is not None
        inner = paho(first.client).socket()
        assert isinstance(inner, socket.socket)
        inner.shutdown(socket.SHUT_RDWR)
        await _until(lambda: connection.connected and connection._session is not first)
        received = connection.messages()
        assert [(await anext(received)).payload for _ in expected] == expected
        assert connection._arrived.empty()


def test_wrong_tls_files_are_named(tmp_path: Path) -> None:
    broken = tmp_path / "ca.pem"
    broken.write_text("not a certificate")
    with pytest.raises(SettingsError, match=r"ca\.pem") as raised:
        MqttConnection(MqttSettings.read(mqtt_ca_file=broken), identifier=None, subscriptions=())
    assert raised.value.code == "mqtt_ca_file"
    with pytest.raises(SettingsError, match=r"device\.crt") as raised:
        MqttConnection(MqttSettings.read(mqtt_cert_file=tmp_path / "device.crt"), identifier=None, subscriptions=())
    assert raised.value.code == "mqtt_cert_file"


@pytest.fixture
def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def _until(happened: Callable[[], bool]) -> None:
    while not happened():  # noqa: ASYNC110 - bounded by the caller's asyncio.timeout
        await asyncio.sleep(0.01)


@asynccontextmanager
async def _server(
    answer: bytes, *, hang_up_after: bytes | None = None
) -> AsyncIterator[tuple[MqttSettings, asyncio.Event]]:
    """Run a "broker" that answers CONNECT with `answer` and hears on, or hangs up on reading `hang_up_after`."""
    accepted = asyncio.Event()
    talks = set()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talks.add((asyncio.current_task(), writer))
        heard = b""
        greeted = False
        try:
            while part := await reader.read(65536):
                accepted.set()
                heard += part
                if not greeted and heard.startswith(b"\x10"):
                    writer.write(answer)
                    greeted = True
                if hang_up_after is not None and hang_up_after in heard:
                    break
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with server:
        yield MqttSettings.read(mqtt_port=server.sockets[0].getsockname()[1]), accepted
    for task, writer in talks:
        writer.close()
        if task is not None:
            await asyncio.wait({task})
