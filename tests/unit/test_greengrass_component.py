import asyncio

import pytest
from structlog.testing import capture_logs

from facewire_greengrass.component import _stopping_within


async def test_a_stop_is_cut_short() -> None:
    stop = asyncio.Event()
    stop.set()
    with capture_logs() as logs:
        async with asyncio.timeout(5), _stopping_within(0.01, stop):
            await asyncio.Event().wait()
    assert [line["event"] for line in logs] == ["the stop was cut short: what is left is on the disk"]


async def test_what_takes_too_long_otherwise_is_an_error() -> None:
    with pytest.raises(TimeoutError):
        async with _stopping_within(10, asyncio.Event()), asyncio.timeout(0.01):
            await asyncio.Event().wait()


async def test_a_stop_in_time_is_left_alone() -> None:
    stop = asyncio.Event()
    with capture_logs() as logs:
        async with _stopping_within(10, stop):
            stop.set()
    assert not logs
