"""A CA for one installation of Facewire, and the certificates that it signs (X.509 v3, RFC 5280; keys on P-256).

The MQTT broker takes the common name of a client's certificate as its user name, and the ACL goes by that: whoever
holds the CA's key can be anybody. It is meant for one's own machines, hence "development CA".
"""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from facewire.domain.errors import SettingsError
from facewire.domain.names import DEVICE_LINE, check_camera

AUTHORITY_DAYS = 3650
#: The longest that browsers take (CA/Browser Forum Baseline Requirements 6.3.2, until March 2026).
CERTIFICATE_DAYS = 397
#: A certificate that ends within this is renewed.
RENEWAL_DAYS = 30
#: Upper bound of a common name (RFC 5280, appendix A: ub-common-name); `cryptography` counts bytes of UTF-8.
MAX_COMMON_NAME = 64
#: Who else holds certificates, or chooses MQTT client identifiers that begin so (`detector-0`).
SERVICES = ("detector", "dev-bridge", "gateway", "health", "mosquitto")

#: A device whose clock is a little behind must not refuse the broker.
_BACKDATED = timedelta(hours=1)


def check_device(name: str) -> str:
    """Return `name` if a device's certificate can bear it; SettingsError `device` tells what is wrong with it."""
    try:
        check_camera(name)
    except ValueError as error:
        raise SettingsError("device", f"{name!r} {error}") from error
    if (size := len(name.encode())) > MAX_COMMON_NAME:
        detail = f"{name!r} has {size} bytes in UTF-8, a certificate's name at most {MAX_COMMON_NAME}: shorten it"
        raise SettingsError("device", detail)
    for service in SERVICES:
        if name == service or name.startswith(f"{service}-"):
            raise SettingsError("device", f"{name!r} could be taken for the service {service}: choose another name")
    return name


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate with its private key, both PEM."""

    certificate: bytes
    key: bytes


@dataclass(frozen=True, slots=True)
class Authority:
    """The CA: its certificate and the key that signs."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def make(cls, key: ec.EllipticCurvePrivateKey, now: datetime | None = None) -> Self:
        """Return a CA of that key, for ten years from `now`."""
        now = now or datetime.now(UTC)
        name = _name("Facewire development CA")
        builder = _builder(name, name, key.public_key(), now, now + timedelta(days=AUTHORITY_DAYS), key.public_key())
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(_key_usage(signs_certificates=True), critical=True)
        return cls(builder.sign(key, hashes.SHA256()), key)

    @property
    def pem(self) -> bytes:
        """The CA's certificate."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def issue(self, name: str, *, hosts: Sequence[str] = (), now: datetime | None = None) -> Issued:
        """Sign a certificate for `name` and a fresh key: a server's where `hosts` are given, else a client's.

        `hosts` are names or addresses under which the server is reached; SettingsError `name` for one that is neither.
        """
        now = now or datetime.now(UTC)
        key = ec.generate_private_key(ec.SECP256R1())
        ends = min(now + timedelta(days=CERTIFICATE_DAYS), self.certificate.not_valid_after_utc)
        builder = _builder(_name(name), self.certificate.subject, key.public_key(), now, ends, self.key.public_key())
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(_key_usage(signs_certificates=False), critical=True)
        usage = ExtendedKeyUsageOID.SERVER_AUTH if hosts else ExtendedKeyUsageOID.CLIENT_AUTH
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        if hosts:
            names = x509.SubjectAlternativeName(alternative_names(hosts))
            builder = builder.add_extension(names, critical=False)
        certificate = builder.sign(self.key, hashes.SHA256())
        return Issued(certificate.public_bytes(serialization.Encoding.PEM), key_pem(key))

    def has_issued(self, certificate: x509.Certificate) -> bool:
        """Tell whether the certificate is signed by this CA."""
        try:
            certificate.verify_directly_issued_by(self.certificate)
        except (InvalidSignature, TypeError, ValueError):
            return False
        return True

    def device_bundle(self, name: str) -> bytes:
        """Return key, certificate and CA of a device as one PEM file, which serves as each of the three.

        The first line, which readers of PEM skip, holds the name for people and for `facewire send`. SettingsError
        `device` for a name that no device can have.
        """
        issued = self.issue(check_device(name))
        return f"{DEVICE_LINE}{name}\n".encode() + issued.key + issued.certificate + self.pem


def new_key() -> ec.EllipticCurvePrivateKey:
    """Return a fresh private key on P-256."""
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return the key as PEM (PKCS #8), not encrypted: services read it with nobody there to type a password."""
    plain = serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)


def alternative_names(hosts: Sequence[str]) -> list[x509.GeneralName]:
    """Return the hosts, each once, as addresses or DNS names; SettingsError `name` for one that is neither."""
    return [_alternative_name(host) for host in dict.fromkeys(hosts)]


def _alternative_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass  # not an address, then a name
    try:
        ascii_name = host.encode("idna").decode("ascii")
    except UnicodeError as error:
        raise SettingsError("name", f"{host!r} is neither a host name nor an address: {error}") from error
    if not ascii_name or not ascii_name.isprintable() or " " in ascii_name or ":" in ascii_name:
        raise SettingsError("name", f"{host!r} is neither a host name nor an address: give it without scheme and port")
    return x509.DNSName(ascii_name)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _builder(  # noqa: PLR0913, PLR0917 - the parts of a certificate
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    now: datetime,
    ends: datetime,
    issuer_key: ec.EllipticCurvePublicKey,
) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder(subject_name=subject, issuer_name=issuer, public_key=public_key)
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now - _BACKDATED).not_valid_after(ends)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key)
    return builder.add_extension(identifier, critical=False)


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )
