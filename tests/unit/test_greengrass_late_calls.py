"""What the SDK's thread says when the event loop has ended already."""

import asyncio

from facewire_greengrass.nucleus import _Events, _Lifecycle


def test_a_loss_that_is_told_after_the_end_disturbs_nobody() -> None:
    loop = asyncio.new_event_loop()
    lost = asyncio.Event()
    lifecycle = _Lifecycle(loop, lost)
    loop.close()
    lifecycle.on_disconnect(None)
    assert not lost.is_set()


def test_events_that_come_after_the_end_go_nowhere() -> None:
    loop = asyncio.new_event_loop()
    heard: list[object] = []
    events = _Events(loop, heard.append, lambda: heard.append("closed"))
    loop.close()
    events.on_stream_event("late")
    assert events.on_stream_error(OSError("late"))
    events.on_stream_closed()
    assert heard == []
