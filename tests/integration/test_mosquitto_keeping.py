"""What the broker of the containers keeps, for whom, and how much of it."""

import asyncio
import ssl
from contextlib import AbstractAsyncContextManager

import aiomqtt
import pytest

from facewire.adapters.mqtt.connection import MqttConnection
from facewire.domain.errors import QueueError
from mosquitto_tls import OPEN, SHARED, Installation, connected, payloads, publish_all, received
from mqtt_brokers import RunningMosquitto, until

MIB = 1024 * 1024


def detector_of(installation: Installation) -> AbstractAsyncContextManager[MqttConnection]:
    """Open the session of the detector in slot 0, which stays at the broker when the connection ends."""
    return OPEN(installation.service("detector"), identifier="detector-0", subscriptions=SHARED)


async def detector_leaves(installation: Installation) -> None:
    async with detector_of(installation) as away:
        await connected(away)


async def test_what_was_written_outlives_a_kill_and_connections_come_back(
    installation: Installation, mosquitto: RunningMosquitto
) -> None:
    await detector_leaves(installation)
    async with OPEN(installation.device("door")) as door:
        await connected(door)
        await publish_all(door, "clients/door", (b"frame-%d" % number for number in range(30)))
        # The acknowledgement leaves first; the database is written every three seconds.
        database = installation.database
        await until(lambda: database.exists() and b"frame-29" in database.read_bytes())
        await mosquitto.kill()
        await until(lambda: not door.connected)
        await mosquitto.bring_back()
        await connected(door)
        async with detector_of(installation) as back:
            assert sorted(await payloads(back, 30)) == sorted(b"frame-%d" % number for number in range(30))
            await door.publish("clients/door", b"after")
            assert await payloads(back, 1) == [b"after"]


@pytest.mark.usefixtures("mosquitto")
async def test_more_than_the_usual_thousand_frames_wait(installation: Installation) -> None:
    await detector_leaves(installation)
    async with OPEN(installation.device("door")) as door:
        await connected(door)
        await publish_all(door, "clients/door", (b"%d" % number for number in range(1100)))
    async with detector_of(installation) as back:
        assert sorted(map(int, await payloads(back, 1100))) == list(range(1100))


@pytest.mark.usefixtures("mosquitto")
async def test_what_a_stopped_broker_holds_is_there_when_it_comes_back(
    installation: Installation, mosquitto: RunningMosquitto
) -> None:
    await detector_leaves(installation)
    async with OPEN(installation.device("door")) as door:
        await connected(door)
        await publish_all(door, "clients/door", (b"frame-%d" % number for number in range(30)))
    await mosquitto.stop()
    await mosquitto.bring_back()
    async with detector_of(installation) as back:
        assert sorted(await payloads(back, 30)) == sorted(b"frame-%d" % number for number in range(30))


@pytest.mark.usefixtures("mosquitto")
async def test_frames_that_wait_for_an_absent_detector_do_not_hold_up_answers(installation: Installation) -> None:
    await detector_leaves(installation)
    async with (
        OPEN(installation.device("door"), subscriptions=["clients/door/results"]) as door,
        OPEN(installation.service("gateway")) as gateway,
    ):
        await connected(door, gateway)
        await publish_all(door, "clients/door", (bytes(MIB) for _ in range(24)))
        # Were the whole database written for each, this would take 5 s and more.
        async with asyncio.timeout(2.5):
            for number in range(200):
                await gateway.publish("clients/door/results", b"%d" % number)


@pytest.mark.usefixtures("mosquitto")
async def test_no_more_than_32_mib_wait(installation: Installation) -> None:
    await detector_leaves(installation)
    async with OPEN(installation.device("door")) as door:
        await connected(door)
        for _ in range(4):
            await door.publish("clients/door", bytes(15 * MIB))
        async with detector_of(installation) as back:
            assert [len(body) for body in await payloads(back, 3)] == [15 * MIB] * 3, "the last may exceed the bound"
            await door.publish("clients/door", b"end")
            assert await received(back, b"end") == [], "the 4th is dropped"


@pytest.mark.usefixtures("mosquitto")
async def test_a_frame_of_16_mib_passes_and_a_larger_one_ends_the_connection(installation: Installation) -> None:
    async with (
        detector_of(installation) as detector,
        OPEN(installation.device("door")) as door,
    ):
        await connected(detector, door)
        await door.publish("clients/door", bytes(16 * MIB))
        assert [len(body) for body in await payloads(detector, 1)] == [16 * MIB]
        with pytest.raises(QueueError, match="mqtt_publish"):
            await door.publish("clients/door", bytes(16 * MIB + 128 * 1024))
        await connected(door)
        await door.publish("clients/door", b"small")
        assert await payloads(detector, 1) == [b"small"]


@pytest.mark.usefixtures("mosquitto")
async def test_a_picture_is_not_retained(installation: Installation) -> None:
    settings = installation.device("door")
    context = ssl.create_default_context(cafile=settings.mqtt_ca_file)
    context.load_cert_chain(str(settings.mqtt_cert_file))
    async with OPEN(installation.device("other")) as other:
        client = aiomqtt.Client("127.0.0.1", settings.mqtt_port, tls_context=context, timeout=1)
        with pytest.raises(aiomqtt.MqttError):
            async with client:
                await client.publish("clients/door", b"picture", qos=1, retain=True)
        async with OPEN(installation.service("detector"), subscriptions=["clients/+"]) as detector:
            await connected(other, detector)
            await other.publish("clients/other", b"end")
            assert await received(detector, b"end") == []
