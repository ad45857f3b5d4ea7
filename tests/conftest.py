"""What every test may use."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from aws_emulator import PROGRAM as MINISTACK
from aws_emulator import REGION, ministack

ROOT = Path(__file__).resolve().parents[1]
SHARED_DATA = ROOT.parent / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of labelled face images, or skip the test where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"needs the labelled face images in {SHARED_DATA}")
    return SHARED_DATA


@pytest.fixture(scope="session")
def samples() -> Path:
    """Return the folder of public-domain pictures that ship with the project."""
    return ROOT / "samples"


@pytest.fixture(scope="session")
def aws_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run an emulator of AWS, one for the whole run: give queues and tables names of your own."""
    if not MINISTACK.exists():
        pytest.skip("needs ministack in .venv-ministack: make setup")
    with ministack(tmp_path_factory.mktemp("ministack") / "log") as endpoint:
        yield endpoint


@pytest.fixture
def aws_environment(aws_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Let clients made from the environment speak to the emulator; return its endpoint."""
    for name, value in {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": REGION,
        "AWS_ENDPOINT_URL": aws_endpoint,
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    return aws_endpoint
