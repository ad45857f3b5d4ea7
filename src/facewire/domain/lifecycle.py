"""Which request an id stands for, and which answer to it stays: the rules of every result store."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from facewire.domain.answers import is_retryable
from facewire.domain.messages import Frame, RecognizedFaces
from facewire.domain.names import raw_frame_id

EXPIRED = "expired"
#: Above that of every answer: a tombstone yields to none.
EXPIRED_RANK = 1000

#: How long answers still to come lose a deleted person's name, and enrolments bring nobody back: longer than any
#: message stays under way.
FORGOTTEN_FOR = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class Known:
    """What is kept under a request id, a tombstone included: of which frame it is, and how good its answer.

    `gallery_version` is that of the answer, None while there is none or where it needed no gallery.
    """

    status: str
    rank: int
    content_sha256: str
    received_at: datetime
    gallery_version: int | None = None

    def same_request(self, frame: Frame, window: timedelta) -> bool:
        """Tell whether `frame` is the request known: the same content, received before the window is over."""
        return self._is_of(frame.content_sha256) and frame.received_at - self.received_at <= window

    def window_expired(self, answer: RecognizedFaces, window: timedelta) -> bool:
        """Tell whether the answer is to a later request under a used id, one that nobody has announced.

        A failure without a content hash comes from a message that could not be read, and proves no new request.
        """
        if self.status == "pending" or (answer.status == "failed" and not answer.content_sha256):
            return False
        return answer.received_at - self.received_at > window or self._is_asked_anew(answer)

    def is_better(self, answer: RecognizedFaces) -> bool:
        """Tell whether the answer is to the request known, and better than what is known of it.

        What failed for a reason of the moment before the frame was sent again is no answer to the later attempt.
        """
        if answer.content_sha256 and answer.received_at < self.received_at and is_retryable(answer):
            return False
        return self.rank < answer.rank and self._is_of(answer.content_sha256)

    def _is_asked_anew(self, answer: RecognizedFaces) -> bool:
        """Tell whether a still without an id of its own came once more, and met a later gallery."""
        if self.gallery_version is None or answer.gallery_version is None or answer.camera is None:
            return False
        later = answer.received_at > self.received_at and answer.gallery_version > self.gallery_version
        return later and answer.request_id == raw_frame_id(answer.camera, answer.content_sha256)

    def _is_of(self, content_sha256: str) -> bool:
        """Messages of earlier deployments have no content hash; they count as the request of their id."""
        return self.content_sha256 == content_sha256 or not self.content_sha256 or not content_sha256
