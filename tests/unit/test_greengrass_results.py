import pytest
from structlog.testing import capture_logs

from facewire.domain.errors import QueueError
from facewire.domain.messages import RecognizedFaces
from facewire_greengrass.nucleus_errors import NucleusError
from facewire_greengrass.results import Results


class Published:
    """Notes what is published, and can be out of reach."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, bytes]] = []
        self.errors: dict[str, QueueError] = {}

    async def __call__(self, topic: str, payload: bytes) -> None:
        if error := self.errors.get(topic):
            raise error
        self.messages.append((topic, payload))


def answer(**fields: object) -> bytes:
    return RecognizedFaces.model_validate({"request_id": "r", "result": "Obama", "camera": "door"} | fields).to_bytes()


async def test_an_answer_goes_to_its_cameras_topic_as_it_is() -> None:
    published = Published()
    bodies = [answer(), answer(camera="gate")]
    await Results(published, "clients/+/results").send(bodies)
    assert published.messages == [("clients/door/results", bodies[0]), ("clients/gate/results", bodies[1])]


@pytest.mark.parametrize("body", [answer(camera=None), answer(camera="a/b"), answer(source="edge"), b"nonsense"])
async def test_what_is_nobodys_here_is_passed_over(body: bytes) -> None:
    published = Published()
    await Results(published, "clients/+/results", skipped="edge").send([body, answer()])
    assert len(published.messages) == 1


async def test_an_answer_over_the_brokers_limit_is_logged_and_dropped() -> None:
    published = Published()
    with capture_logs() as logs:
        await Results(published, "clients/+/results").send([answer(filename="x" * 131_072)])
    assert not published.messages
    assert logs[0]["limit"] == 131_072


@pytest.mark.parametrize("error", [NucleusError("unavailable", "not now"), QueueError("mqtt_publish", "no connection")])
async def test_a_publish_that_fails_is_for_the_caller_to_try_again(error: QueueError) -> None:
    published = Published()
    published.errors["clients/door/results"] = error
    with pytest.raises(QueueError):
        await Results(published, "clients/+/results").send([answer()])


async def test_an_answer_that_is_refused_for_good_holds_up_no_other() -> None:
    """A nucleus refuses topics with `*`, which a camera's name may have."""
    published = Published()
    published.errors["clients/a*/results"] = NucleusError("refused", "must not contain a wildcard")
    with capture_logs() as logs:
        await Results(published, "clients/+/results").send([answer(camera="a*"), answer()])
    assert [topic for topic, _ in published.messages] == ["clients/door/results"]
    assert [(line["event"], line["error"]) for line in logs] == [("an answer was refused, and is lost", "refused")]
