"""The core's inbox, which keeps room for what has to be said of frames that it refuses or drops."""

from dataclasses import dataclass

from facewire.adapters.sqlite.inbox import Inbox
from facewire.domain.messages import Frame
from facewire_greengrass.spool import Spool


@dataclass(frozen=True, slots=True)
class FrameIntake:
    """Where frames come in: with policy `latest` each may cost another its place, which is answered to `refusals`."""

    inbox: Inbox
    refusals: Spool

    async def accept(self, frame: Frame, *, again: bool = False) -> list[Frame]:
        """Commit the frame as the inbox does; QueueError `spool_full` while there is no room for answers to others."""
        await self.refusals.check_room()
        return await self.inbox.accept(frame, again=again)
