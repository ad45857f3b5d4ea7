from collections.abc import Sequence

import pytest
from structlog.testing import capture_logs

from facewire.domain.errors import QueueError
from facewire.domain.messages import RecognizedFaces
from facewire.domain.ports import PartialError
from facewire_greengrass.requests import Requests


class Sent:
    """Notes what is sent; can refuse some for good, and be out of reach for some."""

    def __init__(self, *, refused: Sequence[int] = (), left: Sequence[int] = ()) -> None:
        self.bodies: list[bytes] = []
        self._refused = refused
        self._left = left

    async def send(self, bodies: Sequence[bytes]) -> None:
        failed = {*self._refused, *self._left}
        self.bodies += [body for position, body in enumerate(bodies) if position not in failed]
        if failed:
            raise PartialError("refused", "SQS did not do them", left=self._left, refused=self._refused)


def request(request_id: str) -> bytes:
    return f'{{"request_id": "{request_id}", "camera": "door", "faces": []}}'.encode()


async def test_what_the_queue_will_never_take_is_answered() -> None:
    requests, answers = Sent(refused=[1, 2]), Sent()
    with capture_logs() as logs:
        await Requests(requests, answers).send([request("a"), request("b"), b"nonsense"])
    assert requests.bodies == [request("a")]
    (answer,) = (RecognizedFaces.from_bytes(body) for body in answers.bodies)
    assert (answer.request_id, answer.camera, answer.status, answer.source) == ("b", "door", "failed", "edge")
    assert answer.error is not None
    assert answer.error.code == "message_refused"
    assert [line["request_id"] for line in logs] == ["b", None]


async def test_what_is_to_be_sent_again_is_told_without_what_is_answered() -> None:
    answers = Sent()
    with pytest.raises(PartialError) as error:
        await Requests(Sent(refused=[0], left=[1]), answers).send([request("a"), request("b")])
    assert (error.value.left, error.value.refused) == ([1], ())
    assert len(answers.bodies) == 1


async def test_an_answer_that_cannot_be_kept_leaves_its_request_to_be_sent_again() -> None:
    class Full(Sent):
        async def send(self, bodies: Sequence[bytes]) -> None:
            raise QueueError("spool_full", f"no room for {len(bodies)}")

    with pytest.raises(QueueError, match="spool_full"):
        await Requests(Sent(refused=[0]), Full()).send([request("a")])
