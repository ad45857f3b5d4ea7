"""A whole Facewire in a child process, and what tests do with it."""

import io
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image

from facewire_standalone.child import Child, running_child


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    """Run one `facewire up` on free ports for all tests of the session."""
    with running_child(tmp_path_factory.mktemp("served") / "data") as child:
        yield child


@pytest.fixture
def api(served: Child) -> Iterator[httpx.Client]:
    """Return a client of the running system's HTTP API."""
    with httpx.Client(base_url=served.http_url, timeout=40, trust_env=False) as client:
        yield client


@pytest.fixture(scope="session")
def portrait(samples: Path) -> bytes:
    """Return a public-domain portrait with one face."""
    return (samples / "eileen_collins.jpg").read_bytes()


@pytest.fixture(scope="session")
def small_portrait(portrait: bytes) -> bytes:
    """Return the portrait at a size that is quick to look at."""
    with Image.open(io.BytesIO(portrait)) as image:
        image.thumbnail((200, 200))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
