"""How long the steps of a stage take, a clock for ages, and moments as the stores write them."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from facewire.domain.messages import now

#: A jump ahead of the wall clock that has lasted this long is no mistake that is about to be corrected.
SETTLE_SECONDS = 600.0
#: Time servers move the clock without a jump by up to 0.05 %, 1.8 s in an hour between two looks.
_TOLERANCE = timedelta(seconds=2)

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


class SettledClock:
    """The wall clock, which it follows over a jump ahead once that has lasted `settle_seconds`.

    For what is given up or erased by its age: no age holds a jump that is corrected again. A jump is what the wall
    clock gains on the monotonic one between two calls. A step back is followed at once: it makes everything younger.
    """

    def __init__(
        self,
        settle_seconds: float = SETTLE_SECONDS,
        *,
        clock: Callable[[], datetime] = now,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settle = timedelta(seconds=settle_seconds)
        self._clock = clock
        self._monotonic = monotonic
        # The moment at which the monotonic clock was 0; and where a jump would move that, and since when.
        self._origin = clock() - timedelta(seconds=monotonic())
        self._jump: tuple[datetime, timedelta] | None = None

    def __call__(self) -> datetime:
        """Return the moment, in UTC."""
        moment, elapsed = self._clock(), timedelta(seconds=self._monotonic())
        origin = moment - elapsed
        if origin - self._origin > _TOLERANCE and not self._has_lasted(origin, elapsed):
            return self._origin + elapsed
        self._origin, self._jump = origin, None
        return moment

    def _has_lasted(self, origin: datetime, elapsed: timedelta) -> bool:
        if self._jump is None or abs(origin - self._jump[0]) > _TOLERANCE:
            self._jump = (origin, elapsed)
        return elapsed - self._jump[1] >= self._settle


def milliseconds_between(earlier: datetime, later: datetime) -> float:
    """Return the time between two moments, to a tenth; 0 where the clocks of two machines disagree on their order."""
    return round(max(0.0, (later - earlier).total_seconds()) * 1000, 1)


def to_micros(moment: datetime) -> int:
    """Return the moment as whole microseconds since 1970."""
    return (moment - _EPOCH) // timedelta(microseconds=1)


def from_micros(micros: int) -> datetime:
    """Return the moment, in UTC, that `to_micros` was given."""
    return _EPOCH + timedelta(microseconds=micros)
