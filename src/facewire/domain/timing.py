"""How long the steps of a stage take, and moments as the stores write them."""

import time
from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class StepClock:
    """Collects the times of steps in `timings_ms`: milliseconds, to a tenth."""

    def __init__(self) -> None:
        self.timings_ms: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, step: str) -> None:
        """Note the time since the last lap, or since the clock was made, as that of `step`."""
        present = time.perf_counter()
        self.timings_ms[step] = round((present - self._last) * 1000, 1)
        self._last = present


def milliseconds_between(earlier: datetime, later: datetime) -> float:
    """Return the time between two moments, to a tenth; 0 where the clocks of two machines disagree on their order."""
    return round(max(0.0, (later - earlier).total_seconds()) * 1000, 1)


def to_micros(moment: datetime) -> int:
    """Return the moment as whole microseconds since 1970."""
    return (moment - _EPOCH) // timedelta(microseconds=1)


def from_micros(micros: int) -> datetime:
    """Return the moment, in UTC, that `to_micros` was given."""
    return _EPOCH + timedelta(microseconds=micros)
