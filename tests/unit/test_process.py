"""How the process of a service starts and ends."""

import subprocess
import sys

import pytest

from facewire.domain.errors import ModelError, QueueError, SettingsError
from facewire.runtime.exits import leaves, tell

_PROGRAM = """
import asyncio, os, signal
from facewire.domain.errors import ModelError, QueueError
from facewire.runtime.process import run_service
from facewire.runtime.settings import MqttSettings

async def service(settings, stop):
    {body}

run_service(MqttSettings, service)
"""


def run(body: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    program = [sys.executable, "-c", _PROGRAM.format(body=body)]
    return subprocess.run(program, capture_output=True, text=True, timeout=30, check=False, env=environment)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_service_runs_until_a_signal(name: str) -> None:
    done = run(f"os.kill(os.getpid(), signal.{name}); await asyncio.wait_for(stop.wait(), 10)")
    assert done.returncode == 0
    assert f'"signal": "{name}", "event": "stopping"' in done.stderr


def test_a_service_reads_its_settings_from_the_environment() -> None:
    done = run("print(settings.mqtt_port)", FACEWIRE_MQTT_PORT="8883")
    assert (done.returncode, done.stdout, done.stderr) == (0, "8883\n", "")


def test_a_wrong_setting_is_one_line_and_exit_code_2() -> None:
    done = run("pass", FACEWIRE_MQTT_PORT="high")
    assert done.returncode == 2
    assert done.stderr == (
        "facewire: settings: wrong_setting: mqtt_port: "
        "Input should be a valid integer, unable to parse string as an integer\n"
    )


@pytest.mark.parametrize(("error", "code"), [("ModelError", 2), ("QueueError", 1)])
def test_a_named_error_of_a_task_is_one_line(error: str, code: int) -> None:
    done = run(f"raise ExceptionGroup('tasks', [{error}('code', 'detail'), {error}('code', 'detail')])")
    assert done.returncode == code
    (line,) = done.stderr.splitlines()
    assert line.endswith(": code: detail")


def test_a_fault_leaves_its_traceback() -> None:
    done = run("raise KeyError('ours')")
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback")
    assert "KeyError: 'ours'" in done.stderr


def test_each_error_is_told_once_and_the_worst_decides(capsys: pytest.CaptureFixture[str]) -> None:
    wrong, missing, broken = SettingsError("a", "b"), ModelError("c", "d"), QueueError("e", "f")
    assert tell([wrong, missing, wrong]) == 2
    assert capsys.readouterr().err == "facewire: settings: a: b\nfacewire: model: c: d\n"
    assert tell([wrong, broken]) == 1


def test_the_errors_of_nested_groups_are_found() -> None:
    one, two = QueueError("a", "b"), QueueError("c", "d")
    group = ExceptionGroup("outer", [one, ExceptionGroup("inner", [two])])
    assert list(leaves(group)) == [one, two]
