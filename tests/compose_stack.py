"""The containers of docker-compose.yml under a project name of their own, and what tests do with them."""

import asyncio
import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from aws_emulator import free_port
from facewire.domain.messages import RecognizedFaces
from facewire.runtime.settings import MqttSettings
from facewire_standalone.commands.client import Client, Picture
from facewire_standalone.commands.send import wait_for_answer

ROOT = Path(__file__).resolve().parents[1]
STANDINS = ROOT.parent / "shared" / "standins" / "start-docker.sh"
_ENGINE_SECONDS = 900.0
_COMMAND_SECONDS = 900.0


def missing_engine() -> str | None:
    """Return why there is no Docker engine with compose, None if there is; bring one up where that can be done."""
    if STANDINS.is_file() and os.geteuid() == 0:
        started = subprocess.run([STANDINS], capture_output=True, text=True, timeout=_ENGINE_SECONDS, check=False)
        return None if started.returncode == 0 else f"{STANDINS} failed: {started.stderr[-500:]}"
    if shutil.which("docker") is None:
        return "needs a Docker engine: there is no program docker"
    for command in (["docker", "info"], ["docker", "compose", "version"]):
        tried = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        if tried.returncode != 0:
            return f"needs a Docker engine with compose: {' '.join(command)}: {tried.stderr.strip()[-300:]}"
    return None


def _two_free_ports() -> str:
    """Return a range of two ports, for two gateways, as compose wants it."""
    while True:
        first = free_port()
        with contextlib.suppress(OSError, OverflowError), socket.create_server(("127.0.0.1", first + 1)):
            return f"{first}-{first + 1}"


class Stack:
    """One compose project on free ports of this machine; `variables` are what a file `.env` would hold."""

    def __init__(self, project: str, variables: Mapping[str, str], overrides: Path) -> None:
        self.aws_port = free_port()
        self.dev_port = free_port()
        self.mqtt_port = free_port()
        self.environment = {
            **os.environ,
            "COMPOSE_PROJECT_NAME": project,
            "COMPOSE_FILE": f"{ROOT / 'docker-compose.yml'}:{overrides}",
            "COMPOSE_MENU": "0",
            "E2E_AWS_PORT": str(self.aws_port),
            "FACEWIRE_DEV_MQTT_PORT": str(self.dev_port),
            "FACEWIRE_HTTP_PORT": _two_free_ports(),
            "FACEWIRE_MQTTS_PORT": str(self.mqtt_port),
            **variables,
        }

    def compose(self, *arguments: str, **variables: str) -> str:
        """Run `docker compose`; return what it prints."""
        return self.docker("compose", *arguments, **variables)

    def docker(self, *arguments: str, **variables: str) -> str:
        """Run `docker`; return what it prints."""
        command, environment = ["docker", *arguments], {**self.environment, **variables}
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=_COMMAND_SECONDS, check=False
        )
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr[-3000:]}"
        return done.stdout

    def up(self, *arguments: str, **variables: str) -> None:
        """Start what is not running, and wait until everything is healthy."""
        try:
            self.compose("up", "--detach", "--wait", "--wait-timeout", "180", *arguments, **variables)
        except AssertionError as error:
            pytest.fail(f"{error}\n{self.compose('logs', '--tail', '40')}")

    def containers(self, service: str) -> list[str]:
        """Return the ids of a service's running containers."""
        return self.compose("ps", "--quiet", service).split()

    def http_url(self) -> str:
        """Return where the first gateway is published."""
        return f"http://{self.compose('port', 'gateway', '8080').strip()}"

    def make_key(self, name: str, role: str) -> str:
        """Make a key of the HTTP API as README.md does it."""
        return self.compose("run", "--rm", "--no-deps", "-T", "init", "keys", "add", name, "--role", role).strip()

    def make_device(self, name: str, folder: Path) -> Path:
        """Make a device's certificate as README.md does it; return its file."""
        bundle = folder / f"{name}.pem"
        bundle.write_text(self.compose("run", "--rm", "--no-deps", "-T", "init", "certs", "device", name))
        return bundle

    def mqtt_settings(self, bundle: Path) -> MqttSettings:
        """Return how the device with that file reaches the broker."""
        return MqttSettings.read(
            mqtt_host="127.0.0.1",
            mqtt_port=self.mqtt_port,
            mqtt_ca_file=bundle,
            mqtt_cert_file=bundle,
            mqtt_key_file=bundle,
        )

    def queue_depths(self) -> dict[str, dict[str, int]]:
        """Return what SQS says about the request and the response queue: messages waiting, and in flight."""
        return {name: self._depth(f"facewire-{name}") for name in ("requests", "responses")}

    def _depth(self, queue: str) -> dict[str, int]:
        url = self._sqs("GetQueueUrl", QueueName=queue)["QueueUrl"]
        attributes = self._sqs("GetQueueAttributes", QueueUrl=url, AttributeNames=["All"])["Attributes"]
        return {
            "waiting": int(attributes["ApproximateNumberOfMessages"]),
            "in_flight": int(attributes["ApproximateNumberOfMessagesNotVisible"]),
        }

    def _sqs(self, action: str, **body: Any) -> Any:
        scope = "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/sqs/aws4_request, SignedHeaders=host, Signature=0"
        headers = {
            "Authorization": scope,
            "Content-Type": "application/x-amz-json-1.0",
            "X-Amz-Target": f"AmazonSQS.{action}",
        }
        answer = httpx.post(f"http://127.0.0.1:{self.aws_port}", headers=headers, json=body, timeout=10)
        answer.raise_for_status()
        return answer.json()

    def exit_codes(self, *services: str) -> dict[str, int]:
        """Return the exit codes of the stopped containers of these services."""
        lines = self.compose("ps", "--all", "--format", "json", *services).splitlines()
        return {row["Name"]: row["ExitCode"] for row in map(json.loads, lines)}

    def down(self) -> None:
        """Remove everything that the project has made but its images."""
        self.compose("--profile", "*", "down", "--volumes", "--remove-orphans", "--timeout", "10")

    def leftovers(self) -> list[str]:
        """Return the containers, volumes and networks of the project that are there."""
        label = f"label=com.docker.compose.project={self.environment['COMPOSE_PROJECT_NAME']}"
        kinds = (["ps", "--all", "--quiet"], ["volume", "ls", "--quiet"], ["network", "ls", "--quiet"])
        return [one for kind in kinds for one in self.docker(*kind, "--filter", label).split()]


@contextmanager
def running_stack(project: str, variables: Mapping[str, str], overrides: Path) -> Iterator[Stack]:
    """Build the images and run all services while the block does; nothing but images is left of an earlier run."""
    stack = Stack(project, variables, overrides)
    stack.down()
    try:
        stack.compose("build")
        stack.up()
        yield stack
    finally:
        stack.down()


def wait_until_ready(url: str, seconds: float = 60.0) -> None:
    """Wait until the gateway at `url` says that everything it needs is there; fail with what is lacking."""
    deadline = time.monotonic() + seconds
    said = "nothing"
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.TransportError):
            answer = httpx.get(f"{url}/readyz", timeout=5, trust_env=False)
            if answer.is_success:
                return
            said = answer.text
        time.sleep(0.1)
    pytest.fail(f"{url} was not ready within {seconds:g} s, it says {said}")


@dataclass(frozen=True, slots=True)
class Labelled:
    """Pictures with who is on them: those to enrol, and those to recognise."""

    enrolled: Mapping[Path, str]
    probes: Mapping[Path, str]


async def enroll(stack: Stack, key: str, labelled: Labelled) -> None:
    """Enrol everybody."""
    async with Client.open(stack.http_url(), key) as client:
        for path, person in labelled.enrolled.items():
            outcome = await client.enroll(person, Picture.read(path))
            assert outcome is not None, person
            assert outcome.refused == (), f"{person}: {outcome.refused}"


async def submit(client: Client, pictures: Sequence[Picture], prefix: str) -> list[str]:
    """Hand in pictures, eight at a time; return their request ids, each of which got its 202."""
    free = asyncio.Semaphore(8)
    ids = [f"{prefix}-{number}-{uuid.uuid4().hex[:8]}" for number in range(len(pictures))]

    async def hand_in(picture: Picture, request_id: str) -> None:
        async with free:
            await client.submit(picture, request_id=request_id)

    async with asyncio.TaskGroup() as tasks:
        for picture, request_id in zip(pictures, ids, strict=True):
            tasks.create_task(hand_in(picture, request_id))
    return ids


async def answers_to(client: Client, ids: Sequence[str], seconds: float) -> list[RecognizedFaces]:
    """Return the answer to each request; AssertionError naming those without one after `seconds`."""
    deadline = asyncio.get_running_loop().time() + seconds
    answers = {}
    for request_id in ids:
        left = max(0.5, deadline - asyncio.get_running_loop().time())
        answers[request_id] = await wait_for_answer(client, request_id, left)
    missing = [request_id for request_id, answer in answers.items() if answer is None]
    assert missing == [], f"{len(missing)} of {len(ids)} have no answer after {seconds:g} s"
    return [answer for answer in answers.values() if answer is not None]
