"""`facewire init` makes what the containers need, and leaves it as it is the next time."""

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from facewire.domain.errors import SettingsError
from facewire_gateway.api.auth import create_key, list_keys
from facewire_standalone.cli import app


@pytest.fixture
def folders(tmp_path: Path, aws_environment: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, value in {
        "AWS_ENDPOINT_URL": aws_environment,
        "BUCKET": "init-bucket",
        "CERTS_DIR": str(tmp_path / "certs"),
        "KEYS_FILE": str(tmp_path / "keys" / "keys.json"),
        "PKI_DIR": str(tmp_path / "pki"),
        "REQUEST_QUEUE": "init-requests",
        "RESPONSE_QUEUE": "init-responses",
    }.items():
        monkeypatch.setenv(f"FACEWIRE_{name}", value)
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["init", *arguments], catch_exceptions=False)


def test_everything_is_made_once(folders: Path) -> None:
    first = run("--name", "10.0.0.7")
    assert first.exit_code == 0
    for line in ("keys.json: made", "ca.crt: made", "gateway/cert.pem: made", "queue init-requests: made"):
        assert line in first.output, line
    assert list_keys(folders / "keys" / "keys.json") == ()
    create_key(folders / "keys" / "keys.json", "me", "admin")
    before = {path: path.read_bytes() for path in folders.rglob("*") if path.is_file()}

    second = run("--name", "10.0.0.7")
    assert second.exit_code == 0
    assert ": made" not in second.output
    assert ": renewed" not in second.output
    assert {path: path.read_bytes() for path in folders.rglob("*") if path.is_file()} == before


def test_names_of_the_broker_come_from_the_environment(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run().exit_code == 0
    monkeypatch.setenv("FACEWIRE_BROKER_NAMES", "broker.example 10.0.0.7")
    assert "mosquitto/cert.pem: renewed: does not bear broker.example, 10.0.0.7" in run().output
    assert (folders / "certs" / "mosquitto" / "cert.pem").is_file()


def test_a_wrong_setting_makes_nothing(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACEWIRE_STORE", "paper")
    with pytest.raises(SettingsError, match="store"):
        run()
    assert list(folders.iterdir()) == []
