from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509 import verification
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from facewire.adapters.mqtt.certificates import Authority, check_device, new_key
from facewire.domain.errors import SettingsError
from facewire.domain.names import read_device_name

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority.make(new_key(), NOW)


def parsed(pem: bytes) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pem)


def common_name(certificate: x509.Certificate) -> str:
    (name,) = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(name.value)


def test_a_client_s_certificate_is_good_for_log_in_and_nothing_else(authority: Authority) -> None:
    issued = authority.issue("Haustür 1", now=NOW)
    certificate = parsed(issued.certificate)
    assert common_name(certificate) == "Haustür 1"
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert certificate.extensions.get_extension_for_class(x509.KeyUsage).critical
    assert authority.has_issued(certificate)
    key = serialization.load_pem_private_key(issued.key, password=None)
    assert key.public_key() == certificate.public_key()


def test_a_server_s_certificate_passes_the_rules_of_the_web(authority: Authority) -> None:
    issued = authority.issue("mosquitto", hosts=["localhost", "::1", "bücherei.example", "localhost"], now=NOW)
    store = verification.Store([authority.certificate])
    for subject in (x509.DNSName("localhost"), x509.DNSName("xn--bcherei-n2a.example")):
        verifier = verification.PolicyBuilder().store(store).time(NOW).build_server_verifier(subject)
        assert len(verifier.verify(parsed(issued.certificate), [])) == 2
    names = parsed(issued.certificate).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert len(list(names)) == 3


def test_certificates_last_397_days_and_no_longer_than_their_ca(authority: Authority) -> None:
    assert parsed(authority.issue("a", now=NOW).certificate).not_valid_after_utc == NOW + timedelta(days=397)
    late = NOW + timedelta(days=3640)
    assert parsed(authority.issue("a", now=late).certificate).not_valid_after_utc == NOW + timedelta(days=3650)


def test_another_ca_of_the_same_name_has_issued_nothing_of_this_one(authority: Authority) -> None:
    assert not Authority.make(new_key(), NOW).has_issued(parsed(authority.issue("a", now=NOW).certificate))


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("", "has 0 characters"),
        ("a/b", "must be printable"),
        ("#", "must be printable"),
        ("x" * 65, "at most 64"),
        ("ü" * 33, "has 66 bytes"),
        ("\udce9", "must be printable"),
        ("detector", "the service detector"),
        ("detector-0", "the service detector"),
        ("gateway", "the service gateway"),
        ("health", "the service health"),
        ("dev-bridge", "the service dev-bridge"),
        ("mosquitto-1", "the service mosquitto"),
    ],
)
def test_no_device_is_called_like_a_service_or_a_filter(name: str, fault: str) -> None:
    with pytest.raises(SettingsError, match=fault) as raised:
        check_device(name)
    assert raised.value.code == "device"


@pytest.mark.parametrize("name", ["front-door", "Haustür 1", "x" * 64, "detectors", "gatewayx", "ü" * 32])
def test_other_names_are_fine(authority: Authority, name: str) -> None:
    pem = authority.device_bundle(name)
    assert common_name(parsed(pem)) == name


@pytest.mark.parametrize("host", ["a..b", "", "mqtts://door", "two words", "host:8883", "x" * 64 + ".example"])
def test_a_host_that_is_none_is_named(authority: Authority, host: str) -> None:
    with pytest.raises(SettingsError) as raised:
        authority.issue("mosquitto", hosts=["localhost", host])
    assert raised.value.code == "name"
    assert repr(host) in str(raised.value)


def test_a_bundle_says_whose_it_is(authority: Authority, tmp_path: Path) -> None:
    bundle = tmp_path / "door.pem"
    bundle.write_bytes(authority.device_bundle("Haustür 1"))
    assert read_device_name(bundle) == "Haustür 1"
    assert [common_name(one) for one in x509.load_pem_x509_certificates(bundle.read_bytes())] == [
        "Haustür 1",
        "Facewire development CA",
    ]


@pytest.mark.parametrize("content", [None, b"", b"-----BEGIN CERTIFICATE-----\n", b"\xff\xfe\n"])
def test_a_file_that_does_not_say_whose_it_is_is_named(tmp_path: Path, content: bytes | None) -> None:
    bundle = tmp_path / "door.pem"
    if content is not None:
        bundle.write_bytes(content)
    with pytest.raises(SettingsError, match=r"door\.pem") as raised:
        read_device_name(bundle)
    assert raised.value.code == "bundle"
