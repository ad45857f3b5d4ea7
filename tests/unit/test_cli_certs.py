"""`facewire certs`, and what a bundle means to `facewire send`."""

import subprocess
import sys
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from facewire.domain.errors import SettingsError
from facewire_standalone.commands.mqtt_options import camera_name, camera_settings

#: What is not there where only `facewire[init]` is installed.
ABSENT = (
    "aiomqtt",
    "cv2",
    "fastapi",
    "httpx",
    "iotcore",
    "numpy",
    "onnxruntime",
    "PIL",
    "prometheus_client",
    "uvicorn",
)


def facewire(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command line where ABSENT cannot be imported."""
    program = (
        f"import sys; sys.modules.update(dict.fromkeys({ABSENT!r})); from facewire_standalone.cli import main; main()"
    )
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_init_and_device_need_nothing_but_what_prepares_a_deployment(tmp_path: Path) -> None:
    pki, certs, bundle = tmp_path / "pki", tmp_path / "certs", tmp_path / "door.pem"
    made = facewire("certs", "init", "--pki", pki, "--certs", certs, "--name", "broker.example", "--name", "192.0.2.7")
    assert (made.returncode, made.stderr) == (0, "")
    assert f"{pki}/ca/ca.crt: made\n" in made.stdout
    again = facewire("certs", "init", "--pki", pki, "--certs", certs, "--name", "another.example")
    assert f"{certs}/mosquitto/cert.pem: renewed: does not bear another.example\n" in again.stdout
    assert again.stdout.count(": kept\n") == len(again.stdout.splitlines()) - 1

    written = facewire("certs", "device", "front-door", "--pki", pki, "-o", bundle)
    assert (written.returncode, written.stdout) == (0, f"{bundle}: made for front-door\n")
    assert bundle.stat().st_mode & 0o777 == 0o600
    printed = facewire("certs", "device", "front-door", "--pki", pki)
    (certificate, _) = x509.load_pem_x509_certificates(printed.stdout.encode())
    assert [one.value for one in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)] == ["front-door"]
    assert printed.stdout.splitlines()[0] == "Facewire device: front-door"
    assert camera_name(None, bundle) == "front-door"


def test_faults_are_one_line_and_wrong_usage_exits_with_2(tmp_path: Path) -> None:
    for arguments, code, fault in (
        (("certs", "device", "door", "--pki", tmp_path / "absent"), 1, "certificates: no_ca: "),
        (("certs", "init", "--pki", tmp_path / "pki", "--certs", tmp_path, "--name", "a..b"), 2, "settings: name: "),
    ):
        done = facewire(*arguments)
        assert (done.returncode, done.stdout) == (code, "")
        assert done.stderr.startswith(f"facewire: {fault}")
        assert done.stderr.count("\n") == 1


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    path = tmp_path / "door.pem"
    path.write_text("Facewire device: front-door\n")
    return path


def test_a_bundle_is_all_three_files_and_means_the_port_of_tls(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = camera_settings("broker.example", None, bundle)
    assert (settings.mqtt_host, settings.mqtt_port) == ("broker.example", 8883)
    assert {settings.mqtt_ca_file, settings.mqtt_cert_file, settings.mqtt_key_file} == {bundle}
    assert camera_settings(None, 1234, bundle).mqtt_port == 1234
    monkeypatch.setenv("FACEWIRE_MQTT_PORT", "4321")
    assert camera_settings(None, None, bundle).mqtt_port == 4321


def test_without_a_bundle_everything_is_as_the_settings_say(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert camera_settings(None, None, None).mqtt_port == 1883
    monkeypatch.setenv("FACEWIRE_MQTT_CA_FILE", str(tmp_path / "ca.crt"))
    assert camera_settings(None, None, None).mqtt_ca_file == tmp_path / "ca.crt"


def test_a_given_camera_goes_before_the_bundle_s(bundle: Path) -> None:
    assert camera_name("porch", bundle) == "porch"
    assert camera_name(None, bundle) == "front-door"
    assert camera_name(None, None) is None
    bundle.write_text("something else")
    with pytest.raises(SettingsError, match="--camera"):
        camera_name(None, bundle)
