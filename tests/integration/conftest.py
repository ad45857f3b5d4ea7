"""What several integration tests use."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mosquitto_tls import Installation
from mqtt_brokers import RunningMosquitto


@pytest.fixture
def installation(tmp_path: Path) -> Installation:
    """Return a CA and certificates for one installation, nothing running."""
    return Installation(tmp_path)


@pytest.fixture
async def mosquitto(installation: Installation) -> AsyncIterator[RunningMosquitto]:
    """Run the broker of the containers for the installation."""
    async with installation.broker() as running:
        yield running
