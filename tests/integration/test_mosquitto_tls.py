"""The broker of the containers with its own configuration: who may do what, and who is refused."""

import asyncio
import shutil
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import structlog

from facewire.adapters.mqtt.certificate_folders import open_authority, write_private
from facewire.adapters.mqtt.certificates import Authority, new_key
from facewire.domain.errors import QueueError
from facewire.runtime.settings import MqttSettings
from mosquitto_tls import ANSWERS, OPEN, SHARED, Installation, connected, payloads, publish_all, received
from mqtt_brokers import until


@pytest.mark.usefixtures("mosquitto")
async def test_a_frame_goes_to_the_detector_and_its_answer_comes_back(installation: Installation) -> None:
    camera, name = installation.device("Haustür 1"), "Haustür 1"
    async with (
        OPEN(installation.service("detector"), identifier="detector-0", subscriptions=SHARED) as detector,
        OPEN(installation.service("gateway"), subscriptions=ANSWERS) as gateway,
        OPEN(camera, subscriptions=[f"clients/{name}/results"]) as door,
    ):
        await connected(detector, gateway, door)
        await door.publish(f"clients/{name}", b"frame")
        assert await payloads(detector, 1) == [b"frame"]
        await gateway.publish(f"clients/{name}/results", b"answer")
        assert await payloads(door, 1) == [b"answer"]
        assert await payloads(gateway, 1) == [b"answer"], "other replicas are told as well"


@pytest.mark.usefixtures("mosquitto")
async def test_uploads_and_enrolments_go_from_the_gateway_to_the_detector_and_back(installation: Installation) -> None:
    async with (
        OPEN(installation.service("detector"), identifier="detector-0", subscriptions=SHARED) as detector,
        OPEN(installation.service("gateway"), subscriptions=ANSWERS) as gateway,
    ):
        await connected(detector, gateway)
        for topic in ("uploads/1", "enroll/2", "uploads/1/results"):
            await gateway.publish(topic, topic.encode())
        assert await payloads(detector, 2) == [b"uploads/1", b"enroll/2"]
        assert await payloads(gateway, 1) == [b"uploads/1/results"]


@pytest.mark.usefixtures("mosquitto")
async def test_detectors_alone_say_that_they_are_there_and_gateways_alone_hear_it(installation: Installation) -> None:
    async with (
        OPEN(installation.service("detector")) as detector,
        OPEN(installation.service("gateway"), subscriptions=["detectors"]) as gateway,
        OPEN(installation.device("eve"), subscriptions=["detectors", "clients/eve/results"]) as eve,
    ):
        await connected(detector, gateway, eve)
        for forger in (gateway, eve):
            await forger.publish("detectors", b"forged")
        await detector.publish("detectors", b"there")
        assert await payloads(gateway, 1) == [b"there"]
        await gateway.publish("clients/eve/results", b"own")
        assert await payloads(eve, 1) == [b"own"]


@pytest.mark.usefixtures("mosquitto")
async def test_a_device_publishes_to_no_topic_but_its_own(installation: Installation) -> None:
    """MQTT 3.1.1 acknowledges what it refuses: the proof is that only the marker arrives."""
    forbidden = ["clients/door", "clients/door/results", "clients/eve/results", "clients/eve/more", "clients", "eve"]
    forbidden += ["enroll/1", "uploads/1", "uploads/1/results", "health", "$SYS/broker/uptime", "$share/detectors/x"]
    async with (
        OPEN(installation.service("detector"), subscriptions=["clients/+", "uploads/+", "enroll/+"]) as detector,
        OPEN(installation.service("gateway"), subscriptions=ANSWERS) as gateway,
        OPEN(installation.service("mosquitto/health"), subscriptions=["health"]) as health,
        OPEN(installation.device("eve")) as eve,
    ):
        await connected(detector, gateway, health, eve)
        for topic in forbidden:
            await eve.publish(topic, b"forged")
        await eve.publish("clients/eve", b"own")
        assert await received(detector, b"own") == []
        await gateway.publish("clients/eve/results", b"answer")
        assert await received(gateway, b"answer") == []
        await health.publish("health", b"ok")
        assert await received(health, b"ok") == []


@pytest.mark.usefixtures("mosquitto")
async def test_a_device_receives_nothing_but_its_own_answers(installation: Installation) -> None:
    everything = ["#", "clients/+", "clients/+/results", "clients/door/results", "enroll/+", "uploads/#", "health"]
    everything += ["$share/detectors/clients/+", "$share/x/#", "$SYS/#"]
    async with (
        OPEN(installation.service("gateway")) as gateway,
        OPEN(installation.device("door")) as door,
        OPEN(installation.device("eve"), subscriptions=everything) as eve,
    ):
        await connected(gateway, door, eve)
        await door.publish("clients/door", b"frame")
        for topic in ("clients/door/results", "enroll/1", "uploads/1", "uploads/1/results"):
            await gateway.publish(topic, b"secret")
        await gateway.publish("clients/eve/results", b"own")
        assert await received(eve, b"own") == []


@pytest.mark.usefixtures("mosquitto")
@pytest.mark.parametrize("role", ["detector", "gateway", "dev"])
async def test_a_service_has_only_its_own_part(installation: Installation, role: str) -> None:
    own = {
        "detector": {"clients/detector"},
        "gateway": {"clients/gateway", "clients/a/results", "uploads/1", "uploads/1/results", "enroll/1"},
        "dev": {"clients/a", "clients/dev-bridge"},
    }[role]
    topics = {"clients/a", "clients/a/results", "uploads/1", "uploads/1/results", "enroll/1", "health"} | own
    async with (
        OPEN(installation.service("detector"), subscriptions=["clients/+", "uploads/+", "enroll/+"]) as frames,
        OPEN(installation.service("gateway"), subscriptions=ANSWERS) as answers,
        OPEN(installation.service(role)) as service,
        OPEN(installation.device("marker")) as marker,
    ):
        await connected(frames, answers, service, marker)
        for topic in topics:
            await service.publish(topic, b"x")
        await marker.publish("clients/marker", b"end")
        await answers.publish("clients/marker/results", b"end")
        arrived = {*await received(frames, b"end"), *await received(answers, b"end")}
    assert arrived == own


@pytest.mark.usefixtures("mosquitto")
async def test_detectors_share_the_frames_and_no_device_can_join_them(installation: Installation) -> None:
    """A share that is dealt to a device would be lost, since the device may not have it."""
    detector = installation.service("detector")
    async with (
        OPEN(detector, identifier="detector-0", subscriptions=SHARED) as one,
        OPEN(detector, identifier="detector-1", subscriptions=SHARED) as other,
        OPEN(installation.device("door")) as door,
        OPEN(installation.device("eve"), subscriptions=SHARED) as eve,
    ):
        await connected(one, other, door, eve)
        await publish_all(door, "clients/door", (b"%d" % number for number in range(40)))
        dealt = await asyncio.gather(payloads(one, 20), payloads(other, 20))
    assert sorted(int(body) for share in dealt for body in share) == list(range(40))


@pytest.mark.usefixtures("mosquitto")
async def test_a_device_cannot_take_over_the_session_of_a_detector(installation: Installation) -> None:
    detector = installation.service("detector")
    async with OPEN(detector, identifier="detector-0", subscriptions=SHARED) as one:
        await connected(one)
    async with OPEN(installation.device("door")) as door:
        await connected(door)
        await publish_all(door, "clients/door", (b"1", b"2", b"3"))
    async with OPEN(installation.device("eve"), identifier="detector-0", subscriptions=["x"]) as eve:
        await connected(eve)
    async with OPEN(detector, identifier="detector-0", subscriptions=SHARED) as one:
        assert sorted(await payloads(one, 3)) == [b"1", b"2", b"3"]


def unusable(installation: Installation, folder: Path) -> dict[str, MqttSettings]:
    """Return ways to connect that are refused, by what the refusal says."""
    authority, stranger = open_authority(installation.folder / "pki"), Authority.make(new_key())
    long_ago = authority.issue("door", now=datetime.now(UTC) - timedelta(days=500))
    ca = installation.certs / "detector" / "ca.crt"
    write_private(folder / "other-ca.pem", stranger.device_bundle("door"))
    write_private(folder / "ended.pem", long_ago.key + long_ago.certificate)
    server = installation.certs / "mosquitto"
    return {
        "certificate required": installation.with_files(ca, None, None),
        "unknown ca": installation.with_files(ca, folder / "other-ca.pem", folder / "other-ca.pem"),
        "certificate expired": installation.with_files(ca, folder / "ended.pem", folder / "ended.pem"),
        "unsupported certificate": installation.with_files(ca, server / "cert.pem", server / "key.pem"),
        "certificate verify failed": installation.with_files(*[folder / "other-ca.pem"] * 3),
    }


async def refusal(settings: MqttSettings) -> str:
    """Return why there is no connection."""
    with structlog.testing.capture_logs() as lines:
        async with OPEN(settings) as connection:
            await until(lambda: any(line["event"].startswith("no connection") for line in lines), seconds=5)
            assert not connection.connected
            with pytest.raises(QueueError, match="mqtt_not_connected"):
                await connection.publish("clients/door", b"frame")
    return str(lines[0]["error"])


# paho leaves the socket of a handshake that failed to the garbage collector.
@pytest.mark.filterwarnings("ignore:Exception ignored in. <ssl.SSLSocket")
@pytest.mark.usefixtures("mosquitto")
async def test_without_a_good_certificate_nobody_gets_in_and_the_log_says_why(
    installation: Installation, tmp_path: Path
) -> None:
    for why, settings in unusable(installation, tmp_path).items():
        assert why in (await refusal(settings)).lower().replace("_", " ")
    async with OPEN(installation.device("door")) as connection:
        await connected(connection)


@pytest.mark.usefixtures("mosquitto")
async def test_plain_tcp_and_old_tls_are_refused(installation: Installation) -> None:
    settings = installation.device("door")
    await refusal(MqttSettings.read(mqtt_port=settings.mqtt_port))
    context = ssl.create_default_context(cafile=settings.mqtt_ca_file)
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await asyncio.open_connection("127.0.0.1", settings.mqtt_port, ssl=context)


@pytest.mark.usefixtures("mosquitto")
async def test_the_health_check_passes(installation: Installation) -> None:
    program = shutil.which("mosquitto_rr")
    if program is None:
        pytest.skip("mosquitto_rr (mosquitto-clients) is not installed")
    settings = installation.service("mosquitto/health")
    files = ("--cafile", settings.mqtt_ca_file, "--cert", settings.mqtt_cert_file, "--key", settings.mqtt_key_file)
    message = ("-t", "health", "-e", "health", "-m", "ok", "-W", "4")
    arguments = ("-h", "localhost", "-p", settings.mqtt_port, *files, *message)
    check = await asyncio.create_subprocess_exec(program, *map(str, arguments), stdout=asyncio.subprocess.PIPE)
    said, _ = await check.communicate()
    assert (check.returncode, said) == (0, b"ok\n")
