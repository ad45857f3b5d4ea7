"""The containers as a whole: built, started once for all tests here, taken down at the end. `make e2e` runs them.

They need minutes, so a run of all tests leaves them out, unless a path into this folder is asked for.
"""

import asyncio
import csv
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from compose_stack import Labelled, Stack, enroll, missing_engine, running_stack
from facewire_standalone.commands.client import Client

HERE = Path(__file__).parent
TEST_SECONDS = 400.0
FRAMES = HERE.parents[2].parent / "shared" / "data" / "frames"


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    asked = any(HERE.name in Path(argument.partition("::")[0]).parts for argument in config.args)
    return None if asked else True


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Bound the tests by themselves: what starts the containers has bounds of its own."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.timeout(TEST_SECONDS, func_only=True))


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """Run all containers with the embedder that needs no download; see that nothing is left of them at the end."""
    if reason := missing_engine():
        pytest.skip(reason)
    with running_stack("facewire-e2e", {"EMBEDDER": "dlib-resnet29"}, HERE / "published.yml") as stack:
        yield stack
    assert stack.leftovers() == []


@pytest.fixture(scope="session")
def key(stack: Stack) -> str:
    """Return a key that may do everything."""
    return stack.make_key("e2e", "admin")


@pytest.fixture(scope="session")
def camera_bundle(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the certificate of the device `front-door`."""
    return stack.make_device("front-door", tmp_path_factory.mktemp("devices"))


@pytest.fixture(scope="session")
def labelled(samples: Path) -> Labelled:
    """Return pictures to enrol and pictures to recognise: the labelled frames, or the two people of samples/."""
    if not FRAMES.is_dir():
        people = {samples / "eileen_collins.jpg": "Eileen Collins", samples / "grace_hopper.jpg": "Grace Hopper"}
        return Labelled(people, people)
    with (FRAMES / "labels.csv").open() as file:
        people = {FRAMES / row["Image"]: row["Results"] for row in csv.DictReader(file)}
    first = {path: person for path, person in people.items() if path.stem.endswith("_0")}
    return Labelled(first, {path: person for path, person in people.items() if path not in first})


@pytest.fixture(scope="session")
def enrolled(stack: Stack, key: str, labelled: Labelled) -> Labelled:
    """Enrol everybody; return the pictures."""
    asyncio.run(enroll(stack, key, labelled))
    return labelled


@pytest.fixture
async def client(stack: Stack, key: str) -> AsyncIterator[Client]:
    """Return a client of the gateway."""
    async with Client.open(stack.http_url(), key) as client:
        yield client
