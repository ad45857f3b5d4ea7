"""Results by id, the history, and people."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest

from facewire.domain.cursor import write_cursor
from facewire.domain.enrolment import proof_of
from facewire.domain.errors import IntakeError, StoreError
from facewire.domain.messages import Enrolled, Failure, RecognizedFaces, RunnerUp, now, sha256
from facewire.domain.ports import EnrolledFace, PersonSummary, Result, ResultQuery
from gateway_fakes import Bench, answer, open_bench, picture, until
from pipeline_fakes import ENROLL_KEY

JPEG = {"Content-Type": "image/jpeg"}
FACES = "/v1/people/Ada%20L/faces"


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with open_bench() as bench:
        yield bench


async def post_pending(bench: Bench, request_id: str) -> None:
    headers = {**JPEG, "X-Request-Id": request_id}
    assert (await bench.client.post("/v1/frames?camera=door", content=picture(), headers=headers)).status_code == 202


async def test_a_result_goes_from_unknown_over_pending_to_done(bench: Bench) -> None:
    response = await bench.client.get("/v1/results/r1")
    assert (response.status_code, response.json()["code"]) == (404, "unknown_request")
    await post_pending(bench, "r1")
    pending = (await bench.client.get("/v1/results/r1")).json()
    assert (pending["request_id"], pending["status"], pending["camera"]) == ("r1", "pending", "door")
    await bench.results.keep([answer("r1", result="Ada")])
    done = await bench.client.get("/v1/results/r1")
    assert RecognizedFaces.from_bytes(done.content).result == "Ada"
    assert done.json()["schema"] == 1


async def test_an_expired_result_is_gone(bench: Bench) -> None:
    moment = datetime.now(UTC)
    bench.results.known["r1"] = Result("r1", "expired", None, "", moment, None)
    response = await bench.client.get("/v1/results/r1")
    assert (response.status_code, response.json()["code"]) == (410, "expired")
    assert "7 days" in response.json()["detail"]


async def test_a_long_poll_finds_what_another_replica_drained(bench: Bench) -> None:
    await post_pending(bench, "r1")
    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        polling = tasks.create_task(bench.client.get("/v1/results/r1?wait=30"))
        await until(lambda: bench.feed.waiters)
        await bench.results.keep([answer("r1", result="Ada")])
    assert polling.result().json()["result"] == "Ada"


async def test_a_long_poll_without_an_answer_says_pending(bench: Bench) -> None:
    await post_pending(bench, "r1")
    response = await bench.client.get("/v1/results/r1?wait=0.02")
    assert (response.status_code, response.json()["status"]) == (200, "pending")


@pytest.mark.parametrize("request_id", ["a%2Fb", "x" * 300, "a%23b"])
async def test_an_impossible_id_is_refused(bench: Bench, request_id: str) -> None:
    response = await bench.client.get(f"/v1/results/{request_id}")
    assert response.status_code == 422
    assert response.headers["Content-Type"] == "application/problem+json"


async def test_the_history_passes_its_filters_on(bench: Bench) -> None:
    cursor = write_cursor(now(), "r0")
    filters = "camera=door&person=Ada&status=done&since=2026-01-01T00:00:00Z&until=2026-01-02T00:00:00%2B01:00"
    response = await bench.client.get(f"/v1/results?{filters}&limit=2&cursor={cursor}")
    assert response.json() == {"results": [], "cursor": None}
    since, until = datetime.fromisoformat("2026-01-01T00:00:00Z"), datetime.fromisoformat("2026-01-02T00:00:00+01:00")
    assert bench.results.queries == [ResultQuery("door", "Ada", "done", since, until, 2, cursor)]


async def test_the_history_comes_in_pages(bench: Bench) -> None:
    await bench.results.keep([answer("r2", result="Ada")])
    await post_pending(bench, "r1")
    first = (await bench.client.get("/v1/results?limit=1")).json()
    last = (await bench.client.get(f"/v1/results?limit=1&cursor={first['cursor']}")).json()
    told = [(result["request_id"], result["status"]) for result in first["results"] + last["results"]]
    assert told == [("r1", "pending"), ("r2", "done")]
    assert last["cursor"] is None


@pytest.mark.parametrize("query", ["limit=0", "limit=201", "since=2026-01-01", "status=good", "camera=a/b", "person="])
async def test_wrong_filters_are_named(bench: Bench, query: str) -> None:
    response = await bench.client.get(f"/v1/results?{query}")
    assert response.status_code == 422
    assert [fault["field"] for fault in response.json()["errors"]] == [query.partition("=")[0]]


async def enrol_ada_and_bob(bench: Bench) -> None:
    people = {"f0": "Ada L", "f1": "Ada L", "f2": "Bob"}
    faces = [EnrolledFace(face_id, person, "e", b"1", now(), None) for face_id, person in people.items()]
    await bench.gallery.add(faces)


async def test_people_are_listed_shown_and_deleted(bench: Bench) -> None:
    await enrol_ada_and_bob(bench)
    people = (await bench.client.get("/v1/people")).json()["people"]
    assert [(person["person"], person["faces"]) for person in people] == [("Ada L", ["f0", "f1"]), ("Bob", ["f2"])]
    assert (await bench.client.get("/v1/people/Ada%20L")).json() == people[0]
    assert (await bench.client.delete(f"{FACES}/f0")).json() == {"person": "Ada L", "face_id": "f0"}
    assert (await bench.client.delete(f"{FACES}/f0")).json()["code"] == "not_enrolled"
    enrolled = {"person": "Ada L", "face_id": "f0"}
    await bench.results.keep([answer(f"r{number}", enrolled=enrolled) for number in range(3)])
    deleted = (await bench.client.delete("/v1/people/Ada%20L")).json()
    assert deleted == {"person": "Ada L", "faces_deleted": 1, "results_anonymised": 3}
    for response in (await bench.client.get("/v1/people/Ada%20L"), await bench.client.delete("/v1/people/Ada%20L")):
        assert (response.status_code, response.json()["code"]) == (404, "not_enrolled")


async def test_showing_one_person_reads_no_other(bench: Bench) -> None:
    async def refuse() -> list[PersonSummary]:
        raise NotImplementedError

    await enrol_ada_and_bob(bench)
    bench.gallery.people = refuse  # type: ignore[method-assign]
    assert (await bench.client.get("/v1/people/Ada%20L")).json()["faces"] == ["f0", "f1"]
    assert (await bench.client.get("/v1/people/Eve")).status_code == 404


NAMES = [
    ("a%2Fb", "'/'"),
    ("a%5Cb", "must not hold"),
    ("..", "empty"),
    ("%2E%2E", "'..'"),
    ("a%0Ab", "control"),
    ("x" * 300, "300 characters"),
    ("%20", "0 characters"),
    ("", "empty"),
]


@pytest.mark.parametrize(("name", "reason"), NAMES)
async def test_names_that_cannot_be_are_refused_with_the_reason(bench: Bench, name: str, reason: str) -> None:
    response = await bench.client.post(f"/v1/people/{name}/faces", content=picture(), headers=JPEG)
    if name == "..":  # the client itself makes /v1/faces of it
        assert (response.status_code, response.json()["code"]) == (404, "no_such_page")
        return
    assert response.status_code == 422
    assert reason in response.json()["detail"]


async def test_an_enrolment_gets_201_with_the_face(bench: Bench) -> None:
    alike = RunnerUp(person="Bob", similarity=0.95)
    bench.sink.reply_to(picture(), enrolled=Enrolled(person="Ada L", face_id="f1", looks_like=alike))
    response = await bench.client.post(FACES, content=picture(), headers={**JPEG, "X-Request-Id": "r1"})
    assert response.status_code == 201
    body = response.json()
    assert (body["person"], body["face_id"], body["request_id"]) == ("Ada L", "f1", "r1")
    assert body["looks_like"] == {"person": "Bob", "similarity": 0.95}
    (frame,) = bench.sink.frames
    assert (frame.enroll_as, frame.enroll_proof) == ("Ada L", proof_of(ENROLL_KEY, frame))


async def test_a_refused_enrolment_gets_422_with_the_reasons(bench: Bench) -> None:
    bench.sink.reply_to(picture(), enrolled=Enrolled(person="Ada L", refused=("too_small", "blurred")))
    response = await bench.client.post(FACES, content=picture(), headers=JPEG)
    problem = response.json()
    assert (response.status_code, problem["code"]) == (422, "enrolment_refused")
    assert problem["refused"] == ["too_small", "blurred"]


async def test_an_enrolment_that_failed_gets_422_with_the_stage(bench: Bench) -> None:
    failure = Failure(stage="decode", code="truncated_image", detail="ends early")
    bench.sink.reply_to(picture(), status="failed", error=failure)
    response = await bench.client.post(FACES, content=picture(), headers=JPEG)
    problem = response.json()
    assert (response.status_code, problem["code"]) == (422, "enrolment_failed")
    assert problem["error"]["code"] == "truncated_image"


async def test_several_images_get_an_answer_each(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("facewire_gateway.api.people.MAX_WAIT_SECONDS", 0.02)
    good, bad, slow = picture((8, 8)), picture((9, 9)), picture((7, 7))
    bench.sink.reply_to(good, enrolled=Enrolled(person="Ada L", face_id="f1"))
    bench.sink.reply_to(bad, enrolled=Enrolled(person="Ada L", refused=("no_face",)))
    files = [("file", (name, data)) for name, data in (("good.jpg", good), ("bad.jpg", bad), ("slow.jpg", slow))]
    response = await bench.client.post(FACES, files=files, data={"request_id": "r"})
    assert response.status_code == 207
    faces = response.json()["faces"]
    assert [face["status"] for face in faces] == ["enrolled", "refused", "pending"]
    assert [face["request_id"] for face in faces] == ["r-1", "r-2", "r-3"]
    assert [face["filename"] for face in faces] == ["good.jpg", "bad.jpg", "slow.jpg"]
    both = await bench.client.post(FACES, files=files[:1] * 2)
    assert both.status_code == 201
    late = await bench.client.post(FACES, files=files[::2])
    assert late.status_code == 202
    one = await bench.client.post(FACES, files=files[2:])
    assert (one.status_code, one.json()["status"]) == (202, "pending")


def three_pictures(bench: Bench) -> list[tuple[str, tuple[str, bytes]]]:
    """Return three pictures as parts of a form; unless something happens to them they are enrolled as f0, f1, f2."""
    pictures = [picture((8, 8 + number)) for number in range(3)]
    for number, content in enumerate(pictures):
        bench.sink.reply_to(content, enrolled=Enrolled(person="Ada L", face_id=f"f{number}"))
    return [("file", (f"{number}.jpg", content)) for number, content in enumerate(pictures)]


@pytest.mark.parametrize(
    ("fault", "stage", "code"),
    [
        (IntakeError("overloaded", "the outbox is full"), "intake", "overloaded"),
        (StoreError("disk_full", "no space left"), "store", "disk_full"),
        (RuntimeError("/secret"), "gateway", "internal_error"),
    ],
)
async def test_an_image_that_is_not_taken_in_is_named_and_the_others_are_enrolled(
    bench: Bench, fault: Exception, stage: str, code: str
) -> None:
    files = three_pictures(bench)
    bench.sink.faults[sha256(files[1][1][1])] = fault
    response = await bench.client.post(FACES, files=files, data={"request_id": "r"})
    faces = response.json()["faces"]
    assert response.status_code == 207
    assert [face["request_id"] for face in faces] == ["r-1", "r-2", "r-3"]
    assert [face["filename"] for face in faces] == ["0.jpg", "1.jpg", "2.jpg"]
    assert [face["status"] for face in faces] == ["enrolled", "failed", "enrolled"]
    assert [faces[0]["face_id"], faces[2]["face_id"]] == ["f0", "f2"]
    assert (faces[1]["error"]["stage"], faces[1]["error"]["code"]) == (stage, code)
    assert "/secret" not in response.text


async def test_an_image_whose_answer_cannot_be_read_is_pending_beside_the_others(bench: Bench) -> None:
    files = three_pictures(bench)
    bench.results.unreadable.add("r-2")
    response = await bench.client.post(FACES, files=files, data={"request_id": "r"})
    faces = response.json()["faces"]
    assert response.status_code == 202
    assert [face["status"] for face in faces] == ["enrolled", "pending", "enrolled"]
    assert faces[1]["location"] == "/v1/results/r-2"


async def test_an_image_without_an_answer_hides_none_of_those_after_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("facewire_gateway.api.people.MAX_WAIT_SECONDS", 0.02)
    files = three_pictures(bench)
    bench.sink.replies.pop(sha256(files[0][1][1]))
    response = await bench.client.post(FACES, files=files)
    assert response.status_code == 202
    assert [face["status"] for face in response.json()["faces"]] == ["pending", "enrolled", "enrolled"]


async def test_eleven_images_are_too_many(bench: Bench) -> None:
    files = [("file", (f"{number}.jpg", picture())) for number in range(11)]
    response = await bench.client.post(FACES, files=files)
    assert response.status_code == 422
    assert "10" in response.json()["detail"]
    assert not bench.sink.frames


async def test_no_image_is_enrolled_when_one_is_bad(bench: Bench) -> None:
    files = [("file", ("good.jpg", picture())), ("file", ("bad.jpg", b"hello"))]
    response = await bench.client.post(FACES, files=files)
    assert (response.status_code, response.json()["code"]) == (422, "not_an_image")
    assert "bad.jpg" in response.json()["detail"]
    assert not bench.sink.frames
