"""What every test may use."""

from pathlib import Path

import pytest

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
