"""The command line as people use it: over the running system, and where it must refuse."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from facewire_standalone.child import Child, running_child

#: The promise is 2 s; a call of the command line takes another one or two on a busy machine.
SEEN_SECONDS = 5.0
FACEWIRE = (sys.executable, "-m", "facewire_standalone")


def facewire(*arguments: str | Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    command = [*FACEWIRE, *map(str, arguments)]
    variables = {**os.environ, "COLUMNS": "160", **environment}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=variables)


def one_line(text: str) -> str:
    assert text.endswith("\n")
    (line,) = text.splitlines()
    return line


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    """Run a system whose gallery is this module's own."""
    with running_child(tmp_path_factory.mktemp("cli") / "data") as child:
        yield child


def data_of(child: Child) -> Path:
    return child.log.parent


def mqtt_of(child: Child) -> tuple[str, ...]:
    return ("--mqtt", "--mqtt-host", child.mqtt_host, "--mqtt-port", str(child.mqtt_port))


def test_help_loads_nothing_heavy() -> None:
    heavy = "{'onnxruntime', 'cv2', 'numpy', 'PIL', 'fastapi', 'httpx', 'pydantic', 'aiomqtt'}"
    program = f"import sys, facewire_standalone.cli; print(sorted({heavy} & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert loaded.stdout == "[]\n"
    helped = facewire("--help")
    assert helped.returncode == 0
    for command in ("up", "enroll", "gallery", "send", "recognize", "watch", "models", "keys", "demo", "version"):
        assert f" {command} " in helped.stdout


def test_the_version_is_that_of_the_package() -> None:
    assert facewire("version").stdout.startswith("facewire 0.")


def test_enrol_send_recognise(own: Child, tmp_path: Path, samples: Path) -> None:
    """Follow a person through all commands; the second one has a picture without a face only."""
    for person, file in (("Eileen Collins", "eileen_collins.jpg"), ("A Cat", "cat.jpg")):
        (tmp_path / "people" / person).mkdir(parents=True)
        shutil.copy(samples / file, tmp_path / "people" / person)
    her, another = samples / "eileen_collins.jpg", samples / "grace_hopper.jpg"

    enrolled = facewire("enroll", tmp_path / "people", "--url", own.http_url)
    assert enrolled.returncode == 1
    assert "no_face" in enrolled.stdout
    assert "1 of 2 pictures enrolled, 1 of 2 people" in enrolled.stdout
    assert "nobody enrolled as: A Cat" in enrolled.stdout

    for way in (("--http", "--url", own.http_url), mqtt_of(own)):
        sent = facewire("send", her, another, *way)
        assert sent.returncode == 0, sent.stderr
        answers = dict(line.split(": ", 1) for line in sent.stdout.splitlines())
        assert answers["eileen_collins.jpg"].startswith("Eileen Collins  similarity ")
        assert answers["grace_hopper.jpg"].startswith("Unknown  similarity ")
        assert "below_threshold" in answers["grace_hopper.jpg"]

    offline = facewire("recognize", her, another, "--json", "--data", data_of(own))
    assert offline.returncode == 0, offline.stderr
    first, second = map(json.loads, offline.stdout.splitlines())
    assert (first["result"], second["result"]) == ("Eileen Collins", "Unknown")
    assert first["faces"][0]["similarity"] > second["faces"][0]["similarity"]

    listed = facewire("gallery", "list", "--data", data_of(own))
    assert "Eileen Collins" in listed.stdout
    exported = facewire("gallery", "export", tmp_path / "out.npz", "--data", data_of(own))
    assert "1 faces of 1 people exported" in exported.stdout


def test_a_gallery_that_is_imported_is_seen_by_the_running_system(own: Child, tmp_path: Path, samples: Path) -> None:
    with running_child(tmp_path / "other") as other:
        (tmp_path / "people" / "Grace").mkdir(parents=True)
        shutil.copy(samples / "grace_hopper.jpg", tmp_path / "people" / "Grace")
        assert facewire("enroll", tmp_path / "people", "--url", other.http_url).returncode == 0
        assert facewire("gallery", "export", tmp_path / "grace.npz", "--data", data_of(other)).returncode == 0
    imported = facewire("gallery", "import", tmp_path / "grace.npz", "--data", data_of(own))
    assert "1 faces of 1 people imported" in imported.stdout
    deadline = time.monotonic() + SEEN_SECONDS
    while not (said := facewire("send", samples / "grace_hopper.jpg", "--url", own.http_url).stdout).startswith(
        "grace_hopper.jpg: Grace "
    ):
        assert time.monotonic() < deadline, said


def test_sending_without_waiting(own: Child, samples: Path) -> None:
    for way in (("--http", "--url", own.http_url), mqtt_of(own)):
        sent = facewire("send", samples / "cat.jpg", "--no-wait", *way)
        assert sent.returncode == 0
        request_id = one_line(sent.stdout).rpartition(" ")[2]
        answer = httpx.get(f"{own.http_url}/v1/results/{request_id}", params={"wait": 30}, timeout=40)
        assert answer.json()["result"] == "No-Face"


def test_nobody_listening_is_said_once(samples: Path) -> None:
    pictures = [samples / "cat.jpg"] * 3
    for way in (("--url", "http://127.0.0.1:9"), ("--mqtt", "--mqtt-port", "9")):
        sent = facewire("send", *pictures, *way)
        assert (sent.returncode, sent.stdout) == (1, "")
        assert "is `facewire up` running there?" in sent.stderr.splitlines()[-1]
        assert "Traceback" not in sent.stderr


def test_what_is_no_picture_fails_alone(own: Child, tmp_path: Path, samples: Path) -> None:
    (tmp_path / "text.jpg").write_text("no picture")
    sent = facewire("send", tmp_path / "text.jpg", samples / "cat.jpg", "--url", own.http_url)
    assert sent.returncode == 1
    assert "text.jpg: client: not_an_image" in sent.stderr
    assert one_line(sent.stdout).startswith("cat.jpg: No-Face")
    pictures = (tmp_path / "text.jpg", tmp_path / "absent.jpg", samples / "cat.jpg")
    published = facewire("send", *pictures, *mqtt_of(own))
    assert published.returncode == 1
    assert "text.jpg: Failed" in published.stdout
    assert "cat.jpg: No-Face" in published.stdout
    assert "No such file" in one_line(published.stderr)
    alone = facewire("send", tmp_path / "absent.jpg", *mqtt_of(own))
    assert (alone.returncode, alone.stdout) == (1, "")
    offline = facewire("recognize", tmp_path / "text.jpg", tmp_path / "absent.jpg", "--data", tmp_path / "none")
    assert offline.returncode == 1
    assert "not_an_image" in offline.stdout
    assert "No such file" in offline.stdout
    assert not (tmp_path / "none").exists()


def test_json_is_all_that_goes_to_standard_output(own: Child, tmp_path: Path, samples: Path) -> None:
    pictures = (tmp_path / "absent.jpg", samples / "cat.jpg")
    for way in (("--http", "--url", own.http_url), mqtt_of(own)):
        answered = facewire("send", "--json", *pictures, *way)
        assert json.loads(one_line(answered.stdout))["result"] == "No-Face"
        assert "No such file" in one_line(answered.stderr)
        sent = facewire("send", "--json", "--no-wait", *pictures, *way)
        pending = json.loads(one_line(sent.stdout))
        assert pending == {"request_id": pending["request_id"], "filename": "cat.jpg", "status": "pending"}
        assert "No such file" in one_line(sent.stderr)
        late = facewire("send", "--json", "--timeout", "0", samples / "cat.jpg", *way)
        assert (late.returncode, late.stdout) == (1, "")
        assert "no answer within 0 s" in one_line(late.stderr)


def test_a_reader_that_has_gone_ends_sending_quietly(own: Child, samples: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [*FACEWIRE, "send", "--json", *[str(samples / "cat.jpg")] * 3, "--url", own.http_url]
    try:
        done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")


def test_a_file_name_that_is_not_utf_8_is_shown_as_well_as_it_goes(own: Child, tmp_path: Path, samples: Path) -> None:
    file = tmp_path / os.fsdecode(b"caf\xe9.jpg")
    shutil.copy(samples / "cat.jpg", file)
    calls: tuple[tuple[str | Path, ...], ...] = (
        ("send", file, "--url", own.http_url),
        ("send", file, *mqtt_of(own)),
        ("recognize", file, "--data", tmp_path / "none"),
    )
    for arguments in calls:
        done = facewire(*arguments)
        assert (done.returncode, "caf\ufffd.jpg: No-Face" in one_line(done.stdout)) == (0, True), done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--url", "http://[::1"), "settings: url: "),
        (("--url", "http://a..b"), "settings: url: "),
        (("--key", "schlüssel"), "settings: key: "),
        (("--mqtt", "--camera", "#"), "settings: camera: '#' must be"),
        (("--camera", "a/b"), "settings: camera: 'a/b' must be"),
        (("--mqtt", "--mqtt-host", "a..b"), "mqtt_host: "),
    ],
)
def test_wrong_usage_is_one_line(samples: Path, arguments: tuple[str, ...], words: str) -> None:
    done = facewire("send", samples / "cat.jpg", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in one_line(done.stderr)


def test_watching_nobody_says_so_once(tmp_path: Path) -> None:
    said = tmp_path / "said"
    with said.open("w") as errors:
        command = [*FACEWIRE, "watch", "--url", "http://127.0.0.1:9"]
        watcher = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)
    try:
        wait_for(said, "is `facewire up` running there?")
        watcher.send_signal(signal.SIGINT)
        assert watcher.wait(20) == 0
    finally:
        watcher.kill()
        watcher.wait()
    assert one_line(said.read_text()).startswith("facewire: no answer from http://127.0.0.1:9")


@pytest.mark.parametrize("terminal", [True, False])
def test_watching_shows_results_and_ends_with_ctrl_c(own: Child, samples: Path, tmp_path: Path, terminal: bool) -> None:
    shown = tmp_path / "shown"
    environment = {
        **os.environ,
        "COLUMNS": "160",
        "PYTHONUNBUFFERED": "1",
        **({"FORCE_COLOR": "1"} if terminal else {}),
    }
    wait_for_listeners(own, 0)
    with shown.open("w") as output:
        watcher = subprocess.Popen([*FACEWIRE, "watch", "--url", own.http_url], stdout=output, env=environment)
    try:
        wait_for_listeners(own, 1)
        assert facewire("send", samples / "cat.jpg", "--url", own.http_url, "--camera", "porch").returncode == 0
        wait_for(shown, "porch")
        watcher.send_signal(signal.SIGINT)
        assert watcher.wait(20) == 0
    finally:
        watcher.kill()
        watcher.wait()
    assert "No-Face" in shown.read_text()


def wait_for_listeners(child: Child, count: int) -> None:
    for _ in range(300):
        if f"facewire_gateway_event_subscribers {count}.0" in httpx.get(f"{child.http_url}/metrics").text:
            return
        threading.Event().wait(0.1)
    pytest.fail(f"there were never {count} listening to the events")


def wait_for(file: Path, word: str) -> None:
    for _ in range(300):
        if word in file.read_text():
            return
        threading.Event().wait(0.1)
    pytest.fail(f"no {word!r} in {file.read_text()!r}")


def test_keys_are_made_listed_asked_for_and_removed(tmp_path: Path, samples: Path) -> None:
    data = tmp_path / "data"
    made = {role: facewire("keys", "add", f"my {role}", "--role", role, "--data", data) for role in ("ingest", "admin")}
    keys = {role: one_line(done.stdout) for role, done in made.items()}
    again = facewire("keys", "add", "my admin", "--role", "admin", "--data", data)
    assert (again.returncode, "key_exists" in again.stderr) == (2, True)
    listed = facewire("keys", "list", "--data", data).stdout
    assert "my ingest" in listed
    assert not any(key in listed for key in keys.values())
    with running_child(data) as child:
        cat = samples / "cat.jpg"
        refused = facewire("send", cat, "--url", child.http_url)
        assert (refused.returncode, "missing_key" in one_line(refused.stderr)) == (1, True)
        assert facewire("send", cat, "--url", child.http_url, FACEWIRE_KEY=keys["ingest"]).returncode == 0
        (tmp_path / "people" / "Ada").mkdir(parents=True)
        shutil.copy(samples / "eileen_collins.jpg", tmp_path / "people" / "Ada")
        people = ("enroll", tmp_path / "people", "--url", child.http_url, "--key")
        assert "missing_role" in one_line(facewire(*people, keys["ingest"]).stderr)
        assert facewire(*people, keys["admin"]).returncode == 0
        assert facewire("keys", "remove", "my ingest", "--data", data).returncode == 0
        gone = facewire("send", cat, "--url", child.http_url, "--key", keys["ingest"])
        assert "unknown_key" in one_line(gone.stderr)
    assert facewire("keys", "remove", "my ingest", "--data", data).returncode == 2


def test_models_are_listed_and_a_pull_without_a_network_says_what_to_do(tmp_path: Path) -> None:
    listed = facewire("models", "list")
    assert listed.returncode == 0
    for model in ("dlib-resnet29", "facenet-vggface2", "sface", "face-api-attributes"):
        assert model in listed.stdout
    blocked = {"HTTPS_PROXY": "http://127.0.0.1:9", "FACEWIRE_MODELS_DIR": str(tmp_path)}
    pulled = facewire("models", "pull", "sface", **blocked)
    assert pulled.returncode == 1
    assert "facewire models pull sface --from FILE" in one_line(pulled.stderr)
    assert facewire("models", "pull", "nobody").returncode == 2


class TestUp:
    """How `facewire up` refuses and how it ends."""

    @staticmethod
    def refused(*arguments: str | Path) -> str:
        done = facewire("up", *arguments)
        assert done.returncode == 2, done.stderr
        assert done.stdout == ""
        return done.stderr

    def test_a_taken_port(self, tmp_path: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = str(taken.getsockname()[1])
            said = self.refused("--data", tmp_path, "--port", port, "--mqtt-port", "0").splitlines()[-1]
            assert "cannot listen on 127.0.0.1:" + port in said
            said = one_line(self.refused("--data", tmp_path, "--port", "0", "--mqtt-port", port))
            assert "cannot listen on 127.0.0.1:" + port in said

    def test_a_folder_that_cannot_be_written(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        assert "cannot be written" in one_line(self.refused("--data", tmp_path / "file"))

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (("--port", "70000"), "port: Input should be less than or equal to 65535"),
            (("--embedder", "nobody"), "there is no embedder 'nobody'"),
            (("--embedder", "sface"), "facewire models pull sface"),
            (("--host", "192.0.2.1"), "facewire keys add"),
            (("--host", "a..b"), "host: "),
            (("--mqtt-host", "a..b"), "mqtt_host: "),
            (("--mqtt-host", "192.0.2.1", "--port", "0"), "mqtt_host"),
        ],
    )
    def test_a_wrong_setting(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], words: str
    ) -> None:
        monkeypatch.setenv("FACEWIRE_MODELS_DIR", str(tmp_path))
        monkeypatch.setenv("FACEWIRE_LOG_LEVEL", "error")
        monkeypatch.setenv("FACEWIRE_MQTT_PORT", "0")
        assert words in one_line(self.refused("--data", tmp_path / "data", *arguments))

    def test_a_wrong_environment(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("FACEWIRE_MIN_FACE_SIZE", "3")
        assert "min_face_size: Input should be greater than or equal to 12" in one_line(
            self.refused("--data", tmp_path)
        )

    def test_a_folder_that_is_served_already(self, own: Child) -> None:
        said = one_line(self.refused("--data", data_of(own)))
        assert f"is served by process {own.process.pid}" in said

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_a_signal_ends_it_well(self, tmp_path: Path, samples: Path, number: signal.Signals) -> None:
        with running_child(tmp_path / "data") as child:
            pictures = [samples / "eileen_collins.jpg"] * 5
            assert facewire("send", *pictures, "--no-wait", "--url", child.http_url).returncode == 0
            child.process.send_signal(number)
            assert child.process.wait(20) == 0
        assert not any('"level": "error"' in line or "Traceback" in line for line in child.log.read_text().splitlines())
        with pytest.raises(httpx.ConnectError):
            httpx.get(child.http_url)
