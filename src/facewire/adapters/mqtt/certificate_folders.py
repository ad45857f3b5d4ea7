"""Where certificates lie, and keeping them fresh: the CA's folder, and a folder for each role.

```
<pki>/ca/{ca.crt,ca.key}                       nobody but `facewire certs` needs these
<certs>/<role>/{ca.crt,cert.pem,key.pem}       roles mosquitto, mosquitto/health, detector, gateway, dev
<certs>/detector/share                         the secret of their shared subscriptions: mosquitto/acl tells why
```

A role's folder can be a volume of its own, so that a container holds no key but its own.
"""

import fcntl
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from facewire.adapters.mqtt.certificates import (
    RENEWAL_DAYS,
    Authority,
    Issued,
    alternative_names,
    key_pem,
    new_key,
)
from facewire.domain.errors import CertificateError

#: Names of the broker that its certificate always bears: on its own machine, and among the containers.
BROKER_HOSTS = ("localhost", "127.0.0.1", "mosquitto")

_PUBLIC = 0o644
_PRIVATE = 0o600


@dataclass(frozen=True, slots=True)
class Role:
    """Who gets a certificate, under which common name, and the mode of its key."""

    folder: str
    name: str
    key_mode: int = _PRIVATE


#: The broker's image has a user of its own, which is not the one that writes the volume: only those whom the volume is
#: mounted for can read it.
_SHARED_KEY = 0o444
ROLES = (
    Role("mosquitto", "mosquitto", _SHARED_KEY),
    Role("mosquitto/health", "health", _SHARED_KEY),
    Role("detector", "detector"),
    Role("gateway", "gateway"),
    Role("dev", "dev-bridge", _SHARED_KEY),
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one thing: made, renewed because of `reason`, or kept as it was."""

    path: Path
    did: Literal["made", "renewed", "kept"]
    reason: str | None = None


def prepare(pki: Path, certs: Path, hosts: Sequence[str] = (), now: datetime | None = None) -> list[Outcome]:
    """Make what is missing and renew what cannot be used any more or ends soon; never touch a CA that is there.

    `hosts` are further names and addresses of the broker. May run again at any time, also twice at once.
    CertificateError where the CA is broken or at its end, or a folder cannot be written; SettingsError `name` for a
    host that is none.
    """
    now = now or datetime.now(UTC)
    broker_hosts = (*BROKER_HOSTS, *hosts)
    alternative_names(broker_hosts)
    try:
        with _alone(pki / "ca") as folder:
            authority, outcome = _open_or_make(folder, now)
            _make_folder(certs, 0o700)
            roles = [_prepare_role(authority, certs, role, broker_hosts, now) for role in ROLES]
            secret = _prepare_secret(certs / "detector" / "share")
    except OSError as error:
        detail = f"{error.filename}: {error.strerror}: choose a folder that this user may write to"
        raise CertificateError("unwritable", detail) from error
    return [outcome, *roles, secret]


def open_authority(pki: Path, now: datetime | None = None) -> Authority:
    """Return the CA that `prepare` made; CertificateError where it is absent, broken or at its end."""
    folder = pki / "ca"
    try:
        certificate = x509.load_pem_x509_certificate((folder / "ca.crt").read_bytes())
        key = serialization.load_pem_private_key((folder / "ca.key").read_bytes(), password=None)
    except FileNotFoundError as error:
        detail = f"{error.filename} is not there: run `facewire certs init` first, with the same --pki"
        raise CertificateError("no_ca", detail) from error
    except OSError as error:
        raise CertificateError("unreadable", f"{error.filename}: cannot be read: {error.strerror}") from error
    except (ValueError, TypeError) as error:
        detail = f"{folder}: ca.crt or ca.key is damaged: restore both from a backup, or move them away"
        raise CertificateError("ca_damaged", detail) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        detail = f"{folder}: ca.key is not the key of ca.crt: restore both from a backup, or move them away"
        raise CertificateError("ca_damaged", detail)
    if certificate.not_valid_after_utc <= (now or datetime.now(UTC)):
        ended = f"{certificate.not_valid_after_utc:%Y-%m-%d}"
        detail = f"{folder}: the CA ended on {ended}: move it away, run `facewire certs init` and renew all devices"
        raise CertificateError("ca_ended", detail)
    return Authority(certificate, key)


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only its owner can read; CertificateError where that cannot be done."""
    try:
        _write_file(path, content, _PRIVATE)
    except OSError as error:
        raise CertificateError("unwritable", f"{path}: cannot be written: {error.strerror}") from error


def _write_file(path: Path, content: bytes, mode: int) -> None:
    """Put a file in its place, whole or not at all, with `mode` whatever the umask is."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, _PRIVATE)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fchmod(file.fileno(), mode)
        os.fsync(file.fileno())
    temporary.replace(path)


@contextmanager
def _alone(folder: Path) -> Iterator[Path]:
    """Make the folder and hold it against other runs."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield folder
    finally:
        os.close(descriptor)


def _make_folder(folder: Path, mode: int) -> None:
    """Make the folder where it is missing, with `mode` whatever the umask is."""
    if not folder.is_dir():
        folder.mkdir(parents=True)
        folder.chmod(mode)


def _open_or_make(folder: Path, now: datetime) -> tuple[Authority, Outcome]:
    path = folder / "ca.crt"
    if path.exists():
        return open_authority(folder.parent, now), Outcome(path, "kept")
    # A key without a certificate is what a run that was cut off leaves, or somebody's only key: it is used.
    key = _read_key(folder / "ca.key") if (folder / "ca.key").exists() else new_key()
    if key is None:
        detail = f"{folder}/ca.key is no key on an elliptic curve: move it away, a new one is made"
        raise CertificateError("ca_damaged", detail)
    authority = Authority.make(key, now)
    _write_file(folder / "ca.key", key_pem(key), _PRIVATE)
    _write_file(path, authority.pem, _PUBLIC)
    return authority, Outcome(path, "made")


def _prepare_role(authority: Authority, certs: Path, role: Role, hosts: Sequence[str], now: datetime) -> Outcome:
    folder = certs / role.folder
    _make_folder(folder, 0o755 if role.key_mode == _SHARED_KEY else 0o700)
    wanted = hosts if role.name == "mosquitto" else ()
    path = folder / "cert.pem"
    existed = path.exists()
    reason = _fault(folder, authority, role, wanted, now)
    if reason is None:
        return Outcome(path, "kept")
    _write_role(folder, authority, authority.issue(role.name, hosts=wanted, now=now), role.key_mode)
    return Outcome(path, "renewed", reason) if existed else Outcome(path, "made")


def _prepare_secret(path: Path) -> Outcome:
    """Make it once: with another, what waits in the persistent sessions would come twice."""
    if path.exists():
        return Outcome(path, "kept")
    _write_file(path, secrets.token_hex(16).encode(), _PRIVATE)
    return Outcome(path, "made")


def _write_role(folder: Path, authority: Authority, issued: Issued, key_mode: int) -> None:
    _write_file(folder / "ca.crt", authority.pem, _PUBLIC)
    _write_file(folder / "key.pem", issued.key, key_mode)
    _write_file(folder / "cert.pem", issued.certificate, _PUBLIC)


def _fault(folder: Path, authority: Authority, role: Role, hosts: Sequence[str], now: datetime) -> str | None:  # noqa: PLR0911 - a list of faults
    """Return why the files of a role cannot stay, None if they can."""
    certificate, key = _read_certificate(folder / "cert.pem"), _read_key(folder / "key.pem")
    if certificate is None or key is None:
        return "certificate or key cannot be read"
    if certificate.public_key() != key.public_key():
        return "key of another certificate"
    if not authority.has_issued(certificate) or _read_bytes(folder / "ca.crt") != authority.pem:
        return "another CA"
    if certificate.not_valid_after_utc - now < timedelta(days=RENEWAL_DAYS):
        return f"ends on {certificate.not_valid_after_utc:%Y-%m-%d}"
    if [one.value for one in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)] != [role.name]:
        return "another name"
    if missing := [name for name in alternative_names(hosts) if name not in _alternative_names(certificate)]:
        return f"does not bear {', '.join(str(name.value) for name in missing)}"
    if (folder / "key.pem").stat().st_mode & 0o777 != role.key_mode:
        return "mode of the key"
    return None


def _alternative_names(certificate: x509.Certificate) -> list[x509.GeneralName]:
    try:
        return list(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:
        return []


def _read_certificate(path: Path) -> x509.Certificate | None:
    try:
        return x509.load_pem_x509_certificate(_read_bytes(path))
    except ValueError:
        return None


def _read_key(path: Path) -> ec.EllipticCurvePrivateKey | None:
    try:
        key = serialization.load_pem_private_key(_read_bytes(path), password=None)
    except (ValueError, TypeError):
        return None
    return key if isinstance(key, ec.EllipticCurvePrivateKey) else None


def _read_bytes(path: Path) -> bytes:
    """Return what is in the file, nothing where it is not there."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
