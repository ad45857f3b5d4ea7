"""How long the steps of a stage take."""

import time


class StepClock:
    """Collects the times of steps in `timings_ms`: milliseconds, to a tenth."""

    def __init__(self) -> None:
        self.timings_ms: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, step: str) -> None:
        """Note the time since the last lap, or since the clock was made, as that of `step`."""
        present = time.perf_counter()
        self.note(step, present - self._last)
        self._last = present

    def note(self, step: str, seconds: float) -> None:
        """Note a time measured elsewhere; where two machines' clocks disagree it is at least 0."""
        self.timings_ms[step] = round(max(0.0, seconds) * 1000, 1)
