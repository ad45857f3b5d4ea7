"""Who may enrol: the proof that a gateway gives, and the key that it shares with the recognizer alone."""

import re
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from pydantic import ValidationError

from facewire.adapters.data_folder import enroll_key
from facewire.domain.enrolment import check_proof, proof_of
from facewire.domain.errors import RecognizeError, SettingsError
from facewire.domain.messages import DetectedFaces, Frame
from facewire.runtime.settings import StoreSettings
from pipeline_fakes import ENROLL_KEY, proven

ROOT = Path(__file__).parents[2]
MOMENT = datetime(2026, 11, 27, 1, 2, 3, 456789, tzinfo=UTC)


def enrolment(**fields: Any) -> DetectedFaces:
    said = {"request_id": "r1", "enroll_as": "Ada", "content_sha256": "00", "received_at": MOMENT, **fields}
    return DetectedFaces.model_validate(said)


def refusal(message: DetectedFaces, key: bytes | None = ENROLL_KEY) -> str:
    with pytest.raises(RecognizeError) as error:
        check_proof(key, message)
    assert error.value.code == "enroll_refused"
    return error.value.detail


def test_what_the_gateway_has_signed_passes_through_the_wire_and_the_detector() -> None:
    frame = proven(Frame.of(b"picture", request_id="r1", enroll_as="Ada Ü"))
    handed_over = Frame.from_bytes(frame.to_bytes())
    detected = DetectedFaces(**handed_over.model_dump(exclude={"content"}))
    check_proof(ENROLL_KEY, DetectedFaces.from_bytes(detected.to_bytes()))


def test_a_frame_that_enrols_nobody_needs_no_proof() -> None:
    check_proof(None, enrolment(enroll_as=None))
    check_proof(ENROLL_KEY, enrolment(enroll_as=None, enroll_proof="anything"))


@pytest.mark.parametrize(
    "other",
    [
        {"request_id": "r2"},
        {"enroll_as": "Eve"},
        {"content_sha256": "01"},
        {"received_at": MOMENT + timedelta(microseconds=1)},
    ],
    ids=lambda other: next(iter(other)),
)
def test_a_proof_is_for_one_request_person_picture_and_time(other: dict[str, Any]) -> None:
    assert "not that of this request" in refusal(proven(enrolment()).model_copy(update=other))


@pytest.mark.parametrize("proof", ["", "0" * 64, "é" * 64, proof_of(b"another key" * 3, enrolment())])
def test_a_proof_that_is_none_is_refused(proof: str) -> None:
    assert "not that of this request" in refusal(enrolment(enroll_proof=proof))


def test_a_proof_that_is_absent_is_refused() -> None:
    assert "POST /v1/people/{person}/faces" in refusal(enrolment())
    assert "FACEWIRE_ENROLL_KEY" in refusal(proven(enrolment()), key=None)


def test_what_is_signed_is_kept_apart() -> None:
    """Moved from one field into the next, the same characters are something else."""
    first = enrolment(request_id='a","b', enroll_as="c")
    assert proof_of(ENROLL_KEY, first) != proof_of(ENROLL_KEY, enrolment(request_id="a", enroll_as='b","c'))


def test_the_time_is_a_moment_however_it_is_written() -> None:
    there = MOMENT.astimezone(timezone(timedelta(hours=5)))
    assert proof_of(ENROLL_KEY, enrolment(received_at=there)) == proof_of(ENROLL_KEY, enrolment())


def test_the_key_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    folder = tmp_path / "made" / "data"
    with ThreadPoolExecutor(8) as threads:
        keys = set(threads.map(lambda _: enroll_key(folder), range(8)))
    assert keys == {enroll_key(folder)}
    (file,) = folder.iterdir()
    assert (file.name, file.stat().st_mode & 0o777, folder.stat().st_mode & 0o777) == ("enroll.key", 0o600, 0o700)
    assert re.fullmatch(rb"[0-9a-f]{64}", keys.pop())


def test_the_folder_of_an_earlier_version_gets_a_key(tmp_path: Path) -> None:
    (tmp_path / "facewire.db").write_bytes(b"what was there")
    assert enroll_key(tmp_path) == (tmp_path / "enroll.key").read_bytes()
    assert (tmp_path / "facewire.db").read_bytes() == b"what was there"


def test_a_key_that_is_given_is_the_key_and_makes_no_file(tmp_path: Path) -> None:
    assert enroll_key(tmp_path, "x" * 32) == b"x" * 32
    assert not list(tmp_path.iterdir())


def test_a_key_that_is_too_short_to_be_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "enroll.key").write_bytes(b"")
    with pytest.raises(SettingsError, match="has 0 bytes, must have at least 32: delete it"):
        enroll_key(tmp_path)
    with pytest.raises(ValidationError, match="at least 32 characters"):
        StoreSettings(enroll_key="short")


def test_a_folder_that_takes_no_key_is_named() -> None:
    with pytest.raises(SettingsError, match=r"data_dir: /proc/nowhere.*FACEWIRE_ENROLL_KEY"):
        enroll_key(Path("/proc/nowhere"))


def test_the_detectors_container_gets_no_key() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]

    def volumes(service: str) -> set[str]:
        return {volume.partition(":")[0] for volume in services[service]["volumes"]}

    for service in ("gateway", "recognizer"):
        assert services[service]["environment"]["FACEWIRE_DATA_DIR"] == "/data/gateway"
        assert "gateway-data" in volumes(service)
    assert "gateway-data" not in volumes("detector")
    # All services read `.env`: what is in there of the key is taken away again.
    assert services["detector"]["environment"]["FACEWIRE_ENROLL_KEY"] == ""
