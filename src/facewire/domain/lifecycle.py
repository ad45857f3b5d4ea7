"""Which request an id stands for, and which answer to it stays: the rules of every result store."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from facewire.domain.messages import Frame, RecognizedFaces

EXPIRED = "expired"
#: Above that of every answer: a tombstone yields to none.
EXPIRED_RANK = 1000

#: How long answers still to come lose a deleted person's name, and enrolments bring nobody back: longer than any
#: message stays under way.
FORGOTTEN_FOR = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class Known:
    """What is kept under a request id, a tombstone included: of which frame it is, and how good its answer."""

    status: str
    rank: int
    content_sha256: str
    received_at: datetime

    def stands_for(self, frame: Frame, window: timedelta) -> bool:
        """Tell whether `frame` is the request known: the same content, received before the window is over."""
        return self._is_of(frame.content_sha256) and frame.received_at - self.received_at <= window

    def is_over(self, answer: RecognizedFaces, window: timedelta) -> bool:
        """Tell whether the answer is to a later request under a used id, one that nobody has announced.

        A failure without a content hash comes from a message that could not be read, and proves no new request.
        """
        if self.status == "pending" or (answer.status == "failed" and not answer.content_sha256):
            return False
        return answer.received_at - self.received_at > window

    def yields_to(self, answer: RecognizedFaces) -> bool:
        """Tell whether the answer is to the request known, and better than what is known of it."""
        return self.rank < answer.rank and self._is_of(answer.content_sha256)

    def _is_of(self, content_sha256: str) -> bool:
        """Messages of earlier deployments have no content hash; they count as the request of their id."""
        return self.content_sha256 == content_sha256 or not self.content_sha256 or not content_sha256
