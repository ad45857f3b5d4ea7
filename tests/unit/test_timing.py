"""A clock that follows jumps ahead only once they have lasted."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from facewire.domain.timing import SettledClock

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
FAR = timedelta(days=15)


@dataclass
class Time:
    """What the wall clock and the monotonic one say."""

    wall: datetime = NOON
    seconds: float = 1000.0

    def passes(self, seconds: float) -> None:
        self.seconds += seconds
        self.wall += timedelta(seconds=seconds)

    def settled(self) -> SettledClock:
        return SettledClock(60, clock=lambda: self.wall, monotonic=lambda: self.seconds)


@pytest.fixture
def time() -> Time:
    return Time()


def test_it_is_the_wall_clock_while_that_goes_steadily(time: Time) -> None:
    clock = time.settled()
    for _ in range(10_000):
        time.passes(5)
        time.wall += timedelta(milliseconds=2)  # a clock that is brought into line slowly
        assert clock() == time.wall


def test_a_jump_ahead_that_is_corrected_never_happened(time: Time) -> None:
    clock = time.settled()
    for _ in range(20):
        time.wall += FAR
        for _ in range(5):
            time.passes(10)
            assert clock() == time.wall - FAR
        time.wall -= FAR
        time.passes(10)
        assert clock() == time.wall


def test_a_jump_ahead_counts_once_it_has_lasted(time: Time) -> None:
    clock = time.settled()
    time.wall += FAR
    assert clock() == time.wall - FAR
    time.passes(59)
    assert clock() == time.wall - FAR
    time.passes(1)
    assert clock() == time.wall
    time.passes(1)
    assert clock() == time.wall


def test_each_jump_has_to_last(time: Time) -> None:
    clock = time.settled()
    time.wall += timedelta(hours=1)
    clock()
    time.passes(59)
    time.wall += FAR
    clock()
    time.passes(59)
    assert clock() == time.wall - FAR - timedelta(hours=1)


def test_a_step_back_is_followed_at_once(time: Time) -> None:
    clock = time.settled()
    time.wall -= FAR
    assert clock() == time.wall
    time.wall += FAR
    assert clock() == time.wall - FAR
