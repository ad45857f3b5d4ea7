import os
import ssl
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from facewire.adapters.mqtt.certificate_folders import Outcome, open_authority, prepare, write_private
from facewire.domain.errors import CertificateError, SettingsError

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
ROLES = ["mosquitto", "mosquitto/health", "detector", "gateway", "dev"]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def changes(outcomes: list[Outcome], certs: Path) -> dict[str, str | None]:
    return {str(one.path.relative_to(certs)): one.reason for one in outcomes if one.did != "kept"}


@pytest.fixture
def pki(tmp_path: Path) -> Path:
    return tmp_path / "pki"


@pytest.fixture
def certs(tmp_path: Path) -> Path:
    return tmp_path / "certs"


def test_every_role_gets_what_its_container_needs_and_no_more(pki: Path, certs: Path) -> None:
    outcomes = prepare(pki, certs, now=NOW)
    assert {one.did for one in outcomes} == {"made"}
    files = {f"{role}/{name}" for role in ROLES for name in ("ca.crt", "cert.pem", "key.pem")}
    assert set(contents(certs)) == files | {"detector/share"}
    assert set(contents(pki)) == {"ca/ca.crt", "ca/ca.key"}
    authority = open_authority(pki, NOW)
    for role in ROLES:
        assert authority.has_issued(x509.load_pem_x509_certificate((certs / role / "cert.pem").read_bytes()))
        context = ssl.create_default_context(cafile=certs / role / "ca.crt")
        context.load_cert_chain(certs / role / "cert.pem", certs / role / "key.pem")


def test_private_files_are_private_whatever_the_umask(pki: Path, certs: Path) -> None:
    before = os.umask(0)
    try:
        prepare(pki, certs, now=NOW)
        write_private(certs / "door.pem", b"key")
    finally:
        os.umask(before)
    modes = {str(path.relative_to(certs)): path.stat().st_mode & 0o777 for path in certs.rglob("*")}
    shared = {f"{role}/key.pem": 0o444 for role in ("mosquitto", "mosquitto/health", "dev")}
    own = {"detector/key.pem": 0o600, "detector/share": 0o600, "gateway/key.pem": 0o600, "door.pem": 0o600}
    assert {name: mode for name, mode in modes.items() if name in shared | own} == shared | own
    assert (modes["detector"], modes["mosquitto"], modes["mosquitto/health"]) == (0o700, 0o755, 0o755)
    assert (pki / "ca" / "ca.key").stat().st_mode & 0o777 == 0o600
    assert ((pki / "ca").stat().st_mode & 0o777, certs.stat().st_mode & 0o777) == (0o700, 0o700)


def test_the_umask_does_not_shut_the_broker_out(pki: Path, certs: Path) -> None:
    before = os.umask(0o077)
    try:
        prepare(pki, certs, now=NOW)
    finally:
        os.umask(before)
    assert (certs / "mosquitto" / "health").stat().st_mode & 0o777 == 0o755
    assert (certs / "mosquitto" / "cert.pem").stat().st_mode & 0o777 == 0o644


def test_a_second_run_changes_nothing(pki: Path, certs: Path) -> None:
    prepare(pki, certs, ["broker.example"], now=NOW)
    before = contents(pki) | contents(certs)
    outcomes = prepare(pki, certs, ["broker.example"], now=NOW + timedelta(days=300))
    assert {one.did for one in outcomes} == {"kept"}
    assert contents(pki) | contents(certs) == before


def test_what_ends_within_30_days_is_renewed_under_the_same_ca(pki: Path, certs: Path) -> None:
    prepare(pki, certs, now=NOW)
    before, secret = contents(pki), (certs / "detector" / "share").read_bytes()
    later = NOW + timedelta(days=368)
    outcomes = prepare(pki, certs, now=later)
    assert changes(outcomes, certs) == dict.fromkeys((f"{role}/cert.pem" for role in ROLES), "ends on 2027-12-24")
    assert contents(pki) == before
    assert (certs / "detector" / "share").read_bytes() == secret
    assert {one.did for one in prepare(pki, certs, now=later)} == {"kept"}


def test_what_is_broken_is_made_anew_and_the_reason_is_told(pki: Path, certs: Path) -> None:
    prepare(pki, certs, now=NOW)
    (certs / "detector" / "key.pem").unlink()
    (certs / "gateway" / "cert.pem").write_text("damaged")
    (certs / "dev" / "key.pem").write_bytes((certs / "mosquitto" / "key.pem").read_bytes())
    (certs / "mosquitto" / "key.pem").chmod(0o600)
    (certs / "mosquitto" / "health" / "ca.crt").unlink()
    outcomes = prepare(pki, certs, ["broker.example"], now=NOW)
    assert changes(outcomes, certs) == {
        "detector/cert.pem": "certificate or key cannot be read",
        "gateway/cert.pem": "certificate or key cannot be read",
        "dev/cert.pem": "key of another certificate",
        "mosquitto/cert.pem": "does not bear broker.example",
        "mosquitto/health/cert.pem": "another CA",
    }
    assert {one.did for one in prepare(pki, certs, ["broker.example"], now=NOW)} == {"kept"}


def test_certificates_of_another_ca_or_name_are_replaced(pki: Path, certs: Path, tmp_path: Path) -> None:
    prepare(tmp_path / "other", certs, now=NOW)
    outcomes = [one for one in prepare(pki, certs, now=NOW) if one.path.is_relative_to(certs)]
    assert set(changes(outcomes, certs).values()) == {"another CA"}
    for name in ("cert.pem", "key.pem"):
        (certs / "detector" / name).write_bytes((certs / "gateway" / name).read_bytes())
    assert changes(prepare(pki, certs, now=NOW), certs) == {"detector/cert.pem": "another name"}


def test_a_run_that_was_cut_off_after_the_key_is_taken_up(pki: Path, certs: Path) -> None:
    prepare(pki, certs, now=NOW)
    key = (pki / "ca" / "ca.key").read_bytes()
    (pki / "ca" / "ca.crt").unlink()
    prepare(pki, certs, now=NOW)
    assert (pki / "ca" / "ca.key").read_bytes() == key
    open_authority(pki, NOW)


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("ca.crt", b"damaged", "ca_damaged"),
        ("ca.key", b"damaged", "ca_damaged"),
        ("ca.key", None, "no_ca"),
    ],
)
def test_a_ca_is_never_overwritten(pki: Path, certs: Path, name: str, content: bytes | None, code: str) -> None:
    prepare(pki, certs, now=NOW)
    path = pki / "ca" / name
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    before = contents(pki)
    for attempt in (lambda: prepare(pki, certs, now=NOW), lambda: open_authority(pki, NOW)):
        with pytest.raises(CertificateError) as raised:
            attempt()
        assert raised.value.code == code
    assert contents(pki) == before


def test_keys_that_do_not_belong_together_and_an_ended_ca_are_named(pki: Path, certs: Path, tmp_path: Path) -> None:
    prepare(pki, certs, now=NOW)
    with pytest.raises(CertificateError, match="ended on 2036-11-19") as raised:
        prepare(pki, certs, now=NOW + timedelta(days=3651))
    assert raised.value.code == "ca_ended"
    prepare(tmp_path / "other", certs, now=NOW)
    (pki / "ca" / "ca.key").write_bytes((tmp_path / "other" / "ca" / "ca.key").read_bytes())
    with pytest.raises(CertificateError, match=r"not the key of ca\.crt"):
        open_authority(pki, NOW)


def test_a_wrong_host_leaves_nothing_behind(pki: Path, certs: Path) -> None:
    with pytest.raises(SettingsError, match="neither a host name"):
        prepare(pki, certs, ["a..b"])
    assert not pki.exists()
    assert not certs.exists()


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CertificateError, match="choose a folder") as raised:
        prepare(tmp_path / "file" / "pki", tmp_path / "certs")
    assert raised.value.code == "unwritable"
    with pytest.raises(CertificateError, match="cannot be written"):
        write_private(tmp_path / "absent" / "door.pem", b"")


def test_two_runs_at_once_make_one_ca(pki: Path, certs: Path) -> None:
    program = "import sys; from pathlib import Path; from facewire.adapters.mqtt.certificate_folders import prepare; "
    program += "prepare(Path(sys.argv[1]), Path(sys.argv[2]))"
    runs = [subprocess.Popen([sys.executable, "-c", program, str(pki), str(certs)]) for _ in range(3)]
    assert [run.wait() for run in runs] == [0, 0, 0]
    assert {one.did for one in prepare(pki, certs)} == {"kept"}
