"""The component beside a broker with TLS: frames straight from it, with the certificate of a device of its own."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from facewire.adapters.mqtt.connection import MqttConnection
from facewire.domain.messages import RecognizedFaces
from greengrass_core import Core, core, faceless, message
from mosquitto_tls import Installation
from mqtt_brokers import RunningMosquitto, free_port, running_mosquitto, until
from service_processes import answers_of
from token_service import TOKEN, token_service


@pytest.fixture
async def tls_broker(installation: Installation, tmp_path: Path) -> AsyncIterator[RunningMosquitto]:
    """Run a broker that takes whoever has a certificate of its CA."""
    certs = installation.certs / "mosquitto"
    (tmp_path / "broker").mkdir()
    tls = (
        f"cafile {certs}/ca.crt\ncertfile {certs}/cert.pem\nkeyfile {certs}/key.pem\n"
        "require_certificate true\nuse_identity_as_username true\n"
    )
    async with running_mosquitto(tmp_path / "broker", free_port(), tls) as broker:
        yield broker


@pytest.fixture
async def own(
    aws_environment: str, installation: Installation, tls_broker: RunningMosquitto, tmp_path: Path
) -> AsyncIterator[Core]:
    device = installation.device("core")
    (tmp_path / "core").mkdir()
    broker = {
        "source": "broker",
        "mqtt_port": tls_broker.settings.mqtt_port,
        "mqtt_ca_file": str(device.mqtt_ca_file),
        "mqtt_cert_file": str(device.mqtt_cert_file),
        "mqtt_key_file": str(device.mqtt_key_file),
        "results": "local",
    }
    async with core(tmp_path / "core", aws_environment, **broker) as running:
        yield running


async def test_frames_come_straight_from_the_broker_and_answers_go_back(
    own: Core, installation: Installation, tls_broker: RunningMosquitto
) -> None:
    """What is published while the component is away, it takes when it is back."""
    port = tls_broker.settings.mqtt_port
    door = installation.device("door").model_copy(update={"mqtt_port": port})
    async with MqttConnection.open(door, subscriptions=["clients/door/results"]) as camera:
        async with own.running():
            await until(lambda: "connected to the MQTT broker" in own.log)
            await camera.publish("clients/door", message("now", faceless(0)))
            await answers_of(own.responses, 1)
            assert await own.stop() < 5
        await camera.publish("clients/door", message("meanwhile", faceless(1)))
        async with own.running(), asyncio.timeout(20):
            assert set(await answers_of(own.responses, 1)) == {"meanwhile"}
            results = camera.messages()
            published = [RecognizedFaces.from_bytes((await anext(results)).payload).request_id for _ in range(2)]
    assert published == ["now", "meanwhile"]
    assert not own.nucleus.topics


async def test_the_source_changes_while_it_runs(own: Core, tls_broker: RunningMosquitto) -> None:
    async with own.running():
        await until(lambda: "connected to the MQTT broker" in own.log)
        own.nucleus.configure(source="ipc")
        await until(lambda: own.nucleus.topics == ["clients/+"])
        own.nucleus.publish("clients/door", message("over ipc", faceless(0)))
        assert set(await answers_of(own.responses, 1)) == {"over ipc"}
        own.nucleus.configure(source="broker")
        await until(lambda: own.nucleus.topics == [])
    assert tls_broker.process is not None


async def test_a_certificate_file_that_is_not_there_leaves_the_configuration_before(own: Core) -> None:
    async with own.running():
        missing = {"mqtt_ca_file": str(own.folder / "missing.crt")}
        own.nucleus.propose("typo", own.nucleus.configuration | missing)
        await until(lambda: bool(own.nucleus.reports))
        own.nucleus.configure(**missing)
        await until(lambda: "the one before stays" in own.log)
        assert await own.stop() < 5
    assert own.nucleus.reports[0]["status"] == "REJECTED"
    assert "missing.crt: no usable CA certificate" in own.nucleus.reports[0]["message"]


async def test_a_broker_that_does_not_take_the_certificate_is_waited_for(
    own: Core, installation: Installation, tmp_path: Path
) -> None:
    stranger = Installation(tmp_path / "stranger").device("core")
    own.nucleus.configuration |= {
        "mqtt_cert_file": str(stranger.mqtt_cert_file),
        "mqtt_key_file": str(stranger.mqtt_key_file),
    }
    async with own.running():
        await until(lambda: "no connection to the MQTT broker" in own.log)
        device = installation.device("core")
        own.nucleus.configure(mqtt_cert_file=str(device.mqtt_cert_file), mqtt_key_file=str(device.mqtt_key_file))
        await until(lambda: "connected to the MQTT broker" in own.log)


async def test_credentials_come_from_the_token_exchange_service(
    aws_environment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also to a core that starts while the service cannot reach the cloud: it detects, and sends later."""
    async with token_service() as tokens, core(tmp_path, aws_environment, results="local") as own:
        own.environment = tokens.environment
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        tokens.refusal = "responded with expired credentials: hunter2"
        async with own.running():
            own.nucleus.publish("clients/door", message("offline", faceless(0)))
            await until(lambda: "offline" in own.published() and "no_credentials" in own.log)
            tokens.refusal = None
            assert set(await answers_of(own.responses, 1)) == {"offline"}
    assert "GET /2016-11-01/credentialprovider/ " in tokens.asked[0]
    assert f"Authorization: {TOKEN}" in tokens.asked[0]
    assert "Traceback" not in own.log
    assert "hunter2" not in own.log
