"""The people of the gallery: list, enrol, delete."""

import asyncio
import time
from http import HTTPStatus
from typing import Any, NamedTuple

import structlog
from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from facewire.domain.enrolment import proof_of
from facewire.domain.errors import FacewireError
from facewire.domain.messages import Failure, Frame, Person, RecognizedFaces
from facewire.domain.ports import PersonSummary
from facewire_gateway.api.auth import require
from facewire_gateway.api.budget import release_body
from facewire_gateway.api.deps import MAX_WAIT_SECONDS, Gateway, Parts
from facewire_gateway.api.frames import PICTURE_BODY, location_of
from facewire_gateway.api.problems import GatewayError
from facewire_gateway.api.upload import read_enrolment
from facewire_gateway.api.waiting import wait_after_commit

_log = structlog.get_logger(__name__)
router = APIRouter(prefix="/v1/people", tags=["people"])
_read = [Depends(require("read"))]
_admin = [Depends(require("admin"))]


class PersonShown(BaseModel):
    """A person and the ids of her or his faces, oldest first."""

    person: str
    faces: tuple[str, ...]
    enrolled_at: str


class _Sent(NamedTuple):
    """A picture that has been taken in, or the `fault` for which it was not."""

    request_id: str
    filename: str
    fault: Failure | None = None


@router.get("", dependencies=_read)
async def list_people(gateway: Parts) -> dict[str, list[PersonShown]]:
    """List everybody enrolled, by name."""
    return {"people": [_shown(summary) for summary in await gateway.gallery.people()]}


@router.get("/{person}", dependencies=_read)
async def get_person(gateway: Parts, person: Person) -> PersonShown:
    """Show one person; 404 for somebody who is not, or no longer, enrolled."""
    summary = await gateway.gallery.person(person)
    if summary is None:
        raise _not_enrolled(person)
    return _shown(summary)


@router.delete("/{person}", dependencies=_admin)
async def delete_person(gateway: Parts, person: Person) -> dict[str, str | int]:
    """Delete a person, every face of hers or his, and the name from the history.

    An enrolment asked for before, still under way, fails: `gallery: deleted`.
    """
    faces = await gateway.gallery.delete_person(person)
    version = await gateway.gallery.version()
    results = await gateway.results.forget_person(person, gallery_version=version)
    if not faces and not results:
        raise _not_enrolled(person)
    return {"person": person, "faces_deleted": faces, "results_anonymised": results}


@router.delete("/{person}/faces/{face_id}", dependencies=_admin)
async def delete_face(gateway: Parts, person: Person, face_id: str) -> dict[str, str]:
    """Delete one face; the last one takes the person with it."""
    if not await gateway.gallery.delete_face(person, face_id):
        raise GatewayError("not_enrolled", f"{person!r} has no face {face_id!r}")
    return {"person": person, "face_id": face_id}


@router.post(
    "/{person}/faces",
    dependencies=_admin,
    status_code=201,
    response_description="Enrolled: `face_id`, `looks_like`",
    openapi_extra=PICTURE_BODY,
    responses={
        202: {"description": "Not known yet; `location` will tell"},
        207: {"description": "Several pictures, not all enrolled"},
        422: {"description": "Refused; `refused` has the reason codes"},
    },
)
async def enroll(request: Request, gateway: Parts, person: Person) -> JSONResponse:
    """Enrol the face in a picture, or in each of up to ten `file` parts; waits up to 30 s.

    `looks_like` warns of somebody else who is enrolled and looks alike. Several pictures get an answer each, in
    `faces`; 201 says that all are enrolled, 207 that some are not. One that failed may be sent again, under its
    `request_id`.
    """
    sent = await _accept(request, gateway, person)
    # The wait for the answers must not keep the pictures in memory.
    release_body(request)
    deadline = time.monotonic() + MAX_WAIT_SECONDS
    async with asyncio.TaskGroup() as tasks:
        waiting = [tasks.create_task(_answer(request, gateway, one, deadline), name=one.request_id) for one in sent]
    answers = [task.result() for task in waiting]
    outcomes = [_outcome(picture, answer) for picture, answer in zip(sent, answers, strict=True)]
    if len(outcomes) == 1:
        return _single(person, outcomes[0])
    statuses = {outcome["status"] for outcome in outcomes}
    body = {"person": person, "faces": outcomes}
    if statuses & {"refused", "failed"}:
        return JSONResponse(body, HTTPStatus.MULTI_STATUS)
    return JSONResponse(body, HTTPStatus.ACCEPTED if "pending" in statuses else HTTPStatus.CREATED)


async def _accept(request: Request, gateway: Gateway, person: str) -> list[_Sent]:
    """Take in the pictures of `person` and return what names each of them; a single one raises what it fails for."""
    read = await read_enrolment(request, person=person)
    frames = [frame.model_copy(update={"enroll_proof": proof_of(gateway.enroll_key, frame)}) for frame in read]
    if len(frames) == 1:
        await gateway.sink.accept(frames[0])
        return [_Sent(frames[0].request_id, frames[0].filename)]
    return [_Sent(frame.request_id, frame.filename, await _fault_of(gateway, frame)) for frame in frames]


async def _fault_of(gateway: Gateway, frame: Frame) -> Failure | None:
    """Take in one picture out of several; return why it was not: those before it are, and the answer has to say so."""
    try:
        await gateway.sink.accept(frame)
    except FacewireError as error:
        _log.warning("a picture was not taken in", request_id=frame.request_id, stage=error.stage, code=error.code)
        return Failure.of(error)
    except Exception:  # noqa: BLE001 - logged; the answer has to name what is committed already
        _log.exception("a fault of the server", request_id=frame.request_id)
        detail = "the server failed on this picture: its log has the request id"
        return Failure(stage="gateway", code="internal_error", detail=detail)
    return None


async def _answer(request: Request, gateway: Gateway, sent: _Sent, deadline: float) -> RecognizedFaces | None:
    """Return the answer to a picture, None where it is not known in time or was not taken in."""
    if sent.fault is not None:
        return None
    return await wait_after_commit(request, gateway.feed, sent.request_id, max(0.0, deadline - time.monotonic()))


def _outcome(sent: _Sent, answer: RecognizedFaces | None) -> dict[str, Any]:
    outcome: dict[str, Any] = {"request_id": sent.request_id, "filename": sent.filename}
    location = location_of(sent.request_id)
    fault = sent.fault or (answer.error if answer else None)
    if fault is not None:
        return {**outcome, "status": "failed", "error": fault.model_dump()}
    if answer is None:
        return {**outcome, "status": "pending", "location": location}
    if answer.enrolled is None or answer.enrolled.face_id is None:
        refused = answer.enrolled.refused if answer.enrolled else ()
        return {**outcome, "status": "refused", "refused": list(refused)}
    enrolled = answer.enrolled.model_dump(include={"face_id", "looks_like"})
    return {**outcome, "status": "enrolled", "location": location, **enrolled}


def _single(person: str, outcome: dict[str, Any]) -> JSONResponse:
    if outcome["status"] == "failed":
        error = outcome["error"]
        detail = f"{error['stage']}: {error['code']}: {error['detail']}"
        raise GatewayError("enrolment_failed", detail, error=error)
    if outcome["status"] == "refused":
        reasons = ", ".join(outcome["refused"])
        detail = f"the picture is not good enough to enrol {person!r}: {reasons}"
        raise GatewayError("enrolment_refused", detail, person=person, refused=outcome["refused"])
    status = HTTPStatus.ACCEPTED if outcome["status"] == "pending" else HTTPStatus.CREATED
    headers = {"Location": outcome["location"]}
    return JSONResponse({"person": person, **outcome}, status, headers=headers)


def _shown(summary: PersonSummary) -> PersonShown:
    enrolled_at = summary.enrolled_at.isoformat()
    return PersonShown(person=summary.person, faces=summary.face_ids, enrolled_at=enrolled_at)


def _not_enrolled(person: str) -> GatewayError:
    return GatewayError("not_enrolled", f"{person!r} is not enrolled: GET /v1/people lists who is")
