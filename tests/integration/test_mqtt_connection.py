"""The connection against real brokers: order, redelivery, outages, limits."""

import asyncio
import contextlib
import socket
import subprocess
from collections import Counter
from pathlib import Path

import aiomqtt
import pytest

from facewire.adapters.mqtt.client import paho
from facewire.adapters.mqtt.connection import MqttConnection, Received
from facewire.domain.errors import QueueError
from facewire.runtime.settings import MqttSettings
from facewire_detector.topics import FRAMES_TOPIC
from mqtt_brokers import KINDS, Kind, free_port, running_broker, running_mosquitto, until

FRAME_BYTES = 100_000
OPEN = MqttConnection.open


def numbered(number: int) -> bytes:
    return b"%06d" % number + bytes(FRAME_BYTES)


def number_in(message: Received) -> int:
    return int(message.payload[:6])


async def publish_surely(connection: MqttConnection, topic: str, payload: bytes) -> None:
    """Publish until the broker has it, as a camera does."""
    while True:
        try:
            await connection.publish(topic, payload, timeout=5)
        except QueueError:
            await connection.wait_connected()
        else:
            return


async def publish_all(connection: MqttConnection, count: int, *, taken: set[int], pause: asyncio.Event) -> None:
    """Publish `count` frames, trying none while `pause` is set; note in `taken` which of them the broker has."""
    number = 0
    while number < count:
        await until(lambda: connection.connected and not pause.is_set())
        with contextlib.suppress(QueueError):
            await connection.publish("clients/door", numbered(number), timeout=5)
            taken.add(number)
            number += 1


@pytest.mark.parametrize("kind", KINDS)
async def test_messages_come_in_order_and_results_are_not_frames(kind: Kind, tmp_path: Path) -> None:
    async with (
        asyncio.timeout(30),
        running_broker(kind, tmp_path) as broker,
        OPEN(broker.settings, identifier="detector", subscriptions=[FRAMES_TOPIC]) as frames,
        OPEN(broker.settings) as camera,
    ):
        await frames.wait_connected()
        await camera.wait_connected()
        for number in range(50):
            await camera.publish("clients/door/results", b"a result")
            await camera.publish("clients/door", numbered(number))
        received = frames.messages()
        for number in range(50):
            message = await anext(received)
            assert (message.topic, number_in(message)) == ("clients/door", number)
            message.acknowledge()


@pytest.mark.parametrize("kind", KINDS)
async def test_what_is_not_acknowledged_comes_again_and_the_rest_does_not(kind: Kind, tmp_path: Path) -> None:
    async with asyncio.timeout(30), running_broker(kind, tmp_path) as broker, OPEN(broker.settings) as camera:
        async with OPEN(broker.settings, identifier="detector", subscriptions=[FRAMES_TOPIC]) as frames:
            await frames.wait_connected()
            await camera.wait_connected()
            for number in range(10):
                await camera.publish("clients/door", numbered(number))
            received = frames.messages()
            taken = [await anext(received) for _ in range(10)]
            for index in (2, 0, 1, 9, 4):  # 3 is not safe, so nothing from 3 on may be acknowledged
                taken[index].acknowledge()
            await camera.publish("clients/door", numbered(10))
            assert number_in(await anext(received)) == 10
        async with OPEN(broker.settings, identifier="detector", subscriptions=[FRAMES_TOPIC]) as frames:
            received = frames.messages()
            assert [number_in(await anext(received)) for _ in range(8)] == [3, 4, 5, 6, 7, 8, 9, 10]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_resumed_session_with_a_full_window_is_connected_before_anything_is_taken(
    kind: Kind, tmp_path: Path
) -> None:
    """The embedded broker answers SUBSCRIBE only after its window of 100 messages: nobody may wait for that first."""
    async with asyncio.timeout(30), running_broker(kind, tmp_path) as broker, OPEN(broker.settings) as camera:
        async with OPEN(broker.settings, identifier="detector", subscriptions=[FRAMES_TOPIC]) as frames:
            await frames.wait_connected()
        await camera.wait_connected()
        for number in range(150):
            await camera.publish("clients/door", b"%06d" % number)
        async with OPEN(broker.settings, identifier="detector", subscriptions=[FRAMES_TOPIC]) as frames:
            await frames.wait_connected()
            received = frames.messages()
            for number in range(150):
                message = await anext(received)
                assert number_in(message) == number
                message.acknowledge()


async def test_whoever_unsubscribes_still_gets_what_is_held_for_the_session_and_nothing_newer(tmp_path: Path) -> None:
    shared = f"$share/detectors/{FRAMES_TOPIC}"
    async with (
        asyncio.timeout(30),
        running_broker("mosquitto", tmp_path) as broker,
        OPEN(broker.settings) as camera,
    ):
        async with OPEN(broker.settings, identifier="detector-1", subscriptions=[shared]) as leaving:
            await leaving.wait_connected()
        await camera.wait_connected()
        for number in range(50):
            await camera.publish("clients/door", numbered(number))
        async with (
            OPEN(broker.settings, identifier="detector-1", subscriptions=[shared]) as leaving,
            OPEN(broker.settings, identifier="detector-2", subscriptions=[shared]) as staying,
        ):
            await staying.wait_connected()
            await leaving.unsubscribe()
            for number in range(50, 60):
                await camera.publish("clients/door", numbered(number))
            assert [await _next_number(leaving) for _ in range(50)] == list(range(50))
            assert [await _next_number(staying) for _ in range(10)] == list(range(50, 60))


async def _next_number(connection: MqttConnection) -> int:
    message = await anext(connection.messages())
    message.acknowledge()
    return number_in(message)


@pytest.mark.parametrize("kind", KINDS)
async def test_300_frames_arrive_though_the_consumer_is_cut_off(kind: Kind, tmp_path: Path) -> None:
    """The link is cut four times in the middle; acknowledgements come from tasks that end in any order."""
    seen: Counter[int] = Counter()
    async with (
        asyncio.timeout(60),
        running_broker(kind, tmp_path) as broker,
        OPEN(broker.settings, identifier="detector", subscriptions=[FRAMES_TOPIC]) as frames,
        OPEN(broker.settings) as camera,
        asyncio.TaskGroup() as tasks,
    ):
        await frames.wait_connected()
        await camera.wait_connected()
        consuming = tasks.create_task(_consume(frames, seen))
        publishing = tasks.create_task(publish_all(camera, 300, taken=set(), pause=asyncio.Event()))
        for cut_at in (30, 90, 150, 220):
            await until(lambda cut_at=cut_at: len(seen) >= cut_at)  # type: ignore[misc]
            session = frames._session
            if session is not None:
                inner = paho(session.client).socket()
                assert isinstance(inner, socket.socket)
                inner.shutdown(socket.SHUT_RDWR)
            await until(lambda: not frames.connected)
            await frames.wait_connected()
        await publishing
        await until(lambda: len(seen) == 300)
        consuming.cancel()
    assert set(seen) == set(range(300))


@pytest.mark.parametrize("kind", KINDS)
async def test_300_frames_arrive_though_the_broker_is_killed(kind: Kind, tmp_path: Path) -> None:
    """What the broker had not acknowledged is published again; what it had, mosquitto has on disk.

    The embedded one keeps nothing on disk: what it had taken and not yet handed on is lost, and so is what it takes
    before the consumer has subscribed again.
    """
    seen: Counter[int] = Counter()
    taken: set[int] = set()
    pause = asyncio.Event()
    async with (
        asyncio.timeout(60),
        running_broker(kind, tmp_path) as broker,
        OPEN(broker.settings, identifier="detector", subscriptions=[FRAMES_TOPIC]) as frames,
        OPEN(broker.settings) as camera,
        asyncio.TaskGroup() as tasks,
    ):
        await frames.wait_connected()
        await camera.wait_connected()
        consuming = tasks.create_task(_consume(frames, seen))
        publishing = tasks.create_task(publish_all(camera, 300, taken=taken, pause=pause))
        await until(lambda: len(seen) >= 100)
        if not broker.keeps:
            pause.set()
        await broker.kill()
        taken_before = set(taken)
        await until(lambda: not frames.connected)
        await broker.bring_back()
        await frames.wait_connected()
        pause.clear()
        await publishing
        expected = set(range(300)) if broker.keeps else set(range(300)) - taken_before
        await until(lambda: expected <= set(seen))
        consuming.cancel()
    if not broker.keeps:
        assert len(taken_before - set(seen)) <= 100


async def _consume(frames: MqttConnection, seen: Counter[int]) -> None:
    async with asyncio.TaskGroup() as tasks:
        async for message in frames.messages():
            seen[number_in(message)] += 1
            # Commits end out of order: every third takes longer.
            delay = 0.02 if number_in(message) % 3 == 0 else 0.001
            tasks.create_task(_acknowledge_later(message, delay))


async def _acknowledge_later(message: Received, delay: float) -> None:
    await asyncio.sleep(delay)
    message.acknowledge()


async def test_acknowledgements_out_of_order_would_be_a_disconnect(tmp_path: Path) -> None:
    """The reason for the ordered acknowledger: should rumqttd change, this tells."""
    async with asyncio.timeout(20), running_broker("embedded", tmp_path) as broker:
        client = aiomqtt.Client("127.0.0.1", broker.settings.mqtt_port, identifier="detector", clean_session=False)
        paho(client).manual_ack_set(True)
        async with OPEN(broker.settings) as camera, client:
            await client.subscribe(FRAMES_TOPIC, qos=1)
            await camera.wait_connected()
            for number in range(3):
                await camera.publish("clients/door", numbered(number))
            messages = aiter(client.messages)
            arrived = [await anext(messages) for _ in range(3)]
            paho(client).ack(arrived[1].mid, 1)
            with pytest.raises(aiomqtt.MqttError):
                await anext(messages)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_payload_over_the_limit_resets_the_connection_of_its_sender_alone(kind: Kind, tmp_path: Path) -> None:
    async with (
        asyncio.timeout(30),
        running_broker(kind, tmp_path) as broker,
        OPEN(broker.settings, identifier="detector", subscriptions=[FRAMES_TOPIC]) as frames,
        OPEN(broker.settings) as camera,
    ):
        await frames.wait_connected()
        await camera.wait_connected()
        with pytest.raises(QueueError, match="17,825,792 bytes to clients/door") as raised:
            await camera.publish("clients/door", bytes(17 * 1024 * 1024))
        assert raised.value.code == "mqtt_publish"
        assert frames.connected
        await publish_surely(camera, "clients/door", bytes(16 * 1024 * 1024 - 100))
        message = await anext(frames.messages())
        assert len(message.payload) == 16 * 1024 * 1024 - 100
        message.acknowledge()


@pytest.mark.parametrize("kind", KINDS)
async def test_a_hundred_publishes_at_once_all_arrive(kind: Kind, tmp_path: Path) -> None:
    async with (
        asyncio.timeout(30),
        running_broker(kind, tmp_path) as broker,
        OPEN(broker.settings, subscriptions=["clients/+/results"]) as listener,
        OPEN(broker.settings) as gateway,
    ):
        await listener.wait_connected()
        await gateway.wait_connected()
        await asyncio.gather(*(gateway.publish(f"clients/c{n}/results", b"%d" % n) for n in range(100)))
        received = listener.messages()
        arrived = set()
        for _ in range(100):
            message = await anext(received)
            message.acknowledge()
            arrived.add(int(message.payload))
        assert arrived == set(range(100))


async def test_tls_with_a_certificate_for_each_side(tmp_path: Path) -> None:
    make_certificates(tmp_path)
    port = free_port()
    more = (
        f"allow_anonymous true\nrequire_certificate true\n"
        f"cafile {tmp_path}/ca.pem\ncertfile {tmp_path}/server.pem\nkeyfile {tmp_path}/server.key\n"
    )
    settings = MqttSettings.read(
        mqtt_port=port,
        mqtt_ca_file=tmp_path / "ca.pem",
        mqtt_cert_file=tmp_path / "device.pem",
        mqtt_key_file=tmp_path / "device.key",
    )
    async with asyncio.timeout(20), running_mosquitto(tmp_path, port, more), OPEN(settings) as connection:
        await connection.wait_connected()
        await connection.publish("clients/door", b"over TLS")


def make_certificates(folder: Path) -> None:
    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=test CA", "-days", "2")
    (folder / "names.txt").write_text("subjectAltName=IP:127.0.0.1")
    for name in ("server", "device"):
        openssl("req", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        openssl(
            *("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"),
            *("-out", f"{name}.pem", "-days", "2", "-extfile", "names.txt"),
        )
