"""Headers of pictures, however broken, are either read or refused."""

import contextlib
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facewire.domain.errors import IntakeError
from facewire_gateway.api.upload import check_image
from gateway_fakes import picture

KINDS = ["JPEG", "PNG", "WEBP"]
PICTURES = {kind: picture((33, 17), kind) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_the_size_is_read(kind: str) -> None:
    assert check_image(PICTURES[kind]) == (33, 17)


@given(kind=st.sampled_from(KINDS), rest=st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_noise_after_a_signature_is_no_fault(kind: str, rest: bytes) -> None:
    read_or_refuse(PICTURES[kind][:4] + rest)


@given(kind=st.sampled_from(KINDS), seed=st.integers(0, 10**9), changes=st.integers(1, 8), cut=st.integers(0, 400))
@settings(max_examples=600, deadline=None)
def test_a_damaged_picture_is_no_fault(kind: str, seed: int, changes: int, cut: int) -> None:
    chance = random.Random(seed)
    damaged = bytearray(PICTURES[kind])
    for _ in range(changes):
        damaged[chance.randrange(4, len(damaged))] = chance.randrange(256)
    read_or_refuse(bytes(damaged[: len(damaged) - cut]))


def read_or_refuse(content: bytes) -> None:

    with contextlib.suppress(IntakeError):
        width, height = check_image(content)
        assert width * height <= 40_000_000
