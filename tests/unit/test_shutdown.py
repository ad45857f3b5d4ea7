import asyncio
import os
import signal
import subprocess
import sys

import pytest

from facewire.runtime.process import stop_on_signals


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_sets_the_event(signum: signal.Signals) -> None:
    async with asyncio.timeout(5), stop_on_signals() as stop:
        assert not stop.is_set()
        os.kill(os.getpid(), signum)
        await stop.wait()


async def test_the_handlers_of_before_come_back() -> None:
    before = [signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT)]
    async with asyncio.timeout(5), stop_on_signals() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        await stop.wait()
    assert [signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT)] == before


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_the_process_at_once(second: signal.Signals) -> None:
    program = """
import asyncio
from facewire.runtime.process import stop_on_signals

async def main():
    async with stop_on_signals() as stop:
        print("ready", flush=True)
        await stop.wait()
        print("draining", flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        lines = [process.stdout.readline(), process.stdout.readline()]
        assert "draining\n" in lines
        process.send_signal(second)
        assert process.wait(timeout=5) == -second
