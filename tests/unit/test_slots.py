"""Slots of detectors: who holds which session, and who may leave it."""

import asyncio
import contextlib
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from facewire.domain.errors import SettingsError
from facewire_detector.slots import abandoned_slot, lowest_free_slot

_HOLDER = """
import sys, time
from pathlib import Path
from facewire_detector.slots import lowest_free_slot

with lowest_free_slot(Path(sys.argv[1])) as slot:
    slot.mark(subscribed=True)
    print(slot.identifier, flush=True)
    sys.stdin.read()
"""


def test_the_lowest_free_slot_is_held(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "slots"
    with lowest_free_slot(folder) as one, contextlib.ExitStack() as second:
        two = second.enter_context(lowest_free_slot(folder))
        with lowest_free_slot(folder) as three:
            assert [slot.identifier for slot in (one, two, three)] == ["detector-1", "detector-2", "detector-3"]
        second.close()
        with lowest_free_slot(folder) as again:
            assert again.identifier == "detector-2"
    assert folder.stat().st_mode & 0o777 == 0o700


def test_many_that_come_at_once_hold_different_slots(tmp_path: Path) -> None:
    with contextlib.ExitStack() as held, ThreadPoolExecutor(8) as threads:
        slots = list(threads.map(lambda _: held.enter_context(lowest_free_slot(tmp_path)), range(24)))
        assert len({slot.number for slot in slots}) == 24


def test_a_slot_that_was_left_is_found_until_it_is_given_up(tmp_path: Path) -> None:
    with lowest_free_slot(tmp_path), contextlib.ExitStack() as second:
        second.enter_context(lowest_free_slot(tmp_path))
        with abandoned_slot(tmp_path) as slot:
            assert slot is None
        second.close()
        with abandoned_slot(tmp_path) as slot:
            assert slot is not None
            assert slot.identifier == "detector-2"
            with lowest_free_slot(tmp_path) as third, abandoned_slot(tmp_path) as other:
                assert third.number == 3
                assert other is None
        with abandoned_slot(tmp_path) as slot:
            assert slot is not None
            slot.give_up()
        with abandoned_slot(tmp_path) as slot:
            assert slot is not None
            assert slot.number == 3
            slot.give_up()
        with abandoned_slot(tmp_path) as slot:
            assert slot is None


def test_a_slot_given_up_is_made_anew(tmp_path: Path) -> None:
    with lowest_free_slot(tmp_path) as slot:
        slot.give_up()
        with lowest_free_slot(tmp_path) as other:
            assert other.number == slot.number == 1


def test_the_last_that_is_subscribed_has_to_stay(tmp_path: Path) -> None:
    with lowest_free_slot(tmp_path) as one, lowest_free_slot(tmp_path) as two, lowest_free_slot(tmp_path) as starting:
        assert not one.may_leave()
        one.mark(subscribed=True)
        assert not one.may_leave()
        two.mark(subscribed=True)
        assert one.may_leave()
        assert not two.may_leave()
        starting.mark(subscribed=True)
        assert two.may_leave()
        two.mark(subscribed=True)
        assert starting.may_leave()


def test_of_many_that_leave_at_once_one_stays(tmp_path: Path) -> None:
    with contextlib.ExitStack() as held, ThreadPoolExecutor(8) as threads:
        slots = [held.enter_context(lowest_free_slot(tmp_path)) for _ in range(8)]
        for slot in slots:
            slot.mark(subscribed=True)
        assert sorted(threads.map(lambda slot: slot.may_leave(), slots)) == [False] + [True] * 7


async def test_a_slot_ends_with_its_process_however_that_dies(tmp_path: Path) -> None:
    pipe = asyncio.subprocess.PIPE
    holder = await asyncio.create_subprocess_exec(sys.executable, "-c", _HOLDER, str(tmp_path), stdin=pipe, stdout=pipe)
    try:
        assert holder.stdout is not None
        assert await holder.stdout.readline() == b"detector-1\n"
        with lowest_free_slot(tmp_path) as own:
            assert own.number == 2
            own.mark(subscribed=True)
            with abandoned_slot(tmp_path) as slot:
                assert slot is None
            assert own.may_leave()
            own.mark(subscribed=True)
            holder.send_signal(signal.SIGKILL)
            await holder.wait()
            assert not own.may_leave()
            with abandoned_slot(tmp_path) as slot:
                assert slot is not None
                assert slot.number == 1
    finally:
        if holder.returncode is None:
            holder.kill()
        await holder.communicate()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(SettingsError, match=r"settings: data_dir: .*file/slots cannot be written"),
        lowest_free_slot(tmp_path / "file" / "slots"),
    ):
        pytest.fail("it was held")
