"""The broker of the profile dev: cameras without certificates, bridged to the broker of the containers."""

import pytest

from mosquitto_tls import OPEN, SHARED, Installation, connected, payloads, received
from mqtt_brokers import RunningMosquitto


@pytest.mark.usefixtures("mosquitto")
async def test_cameras_without_certificates_go_over_the_dev_broker(installation: Installation) -> None:
    async with (
        installation.dev_broker(),
        OPEN(installation.service("detector"), identifier="detector-0", subscriptions=SHARED) as detector,
        OPEN(installation.service("gateway")) as gateway,
        OPEN(installation.anonymous(), subscriptions=["clients/porch/results", "clients/+", "#"]) as porch,
    ):
        await connected(detector, gateway, porch)
        for topic in ("enroll/1", "uploads/1", "uploads/1/results", "clients/porch/results"):
            await porch.publish(topic, b"forged")
        await porch.publish("clients/porch", b"frame")
        assert await received(detector, b"frame") == []
        await gateway.publish("clients/porch/results", b"answer")
        assert await received(porch, b"answer") == []


async def test_the_dev_broker_waits_for_the_other_one(installation: Installation, mosquitto: RunningMosquitto) -> None:
    async with (
        installation.dev_broker(),
        OPEN(installation.service("detector"), identifier="detector-0", subscriptions=SHARED) as detector,
        OPEN(installation.anonymous()) as porch,
    ):
        await connected(detector, porch)
        await porch.publish("clients/porch", b"before")
        assert await payloads(detector, 1) == [b"before"]
        await mosquitto.kill()
        await porch.publish("clients/porch", b"meanwhile")
        await mosquitto.bring_back()
        # What the detector acknowledged just before the kill may come again.
        await received(detector, b"meanwhile")
