"""The containers of docker-compose.yml: sizes of the images, time to healthy, memory at rest and under load.

Builds and runs them under a project name of their own on free ports, and takes them down at the end. Sizes are without
the base image, times from the start of a container to its first good health check, memory as `docker stats` gives it.
"""

import argparse
import asyncio
import json
import os
import re
import subprocess
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from _machine import describe
from _system import free_port
from rich.console import Console
from rich.table import Table

from facewire_standalone.commands.client import Client, Picture

ROOT = Path(__file__).resolve().parents[1]
BASE_IMAGE = "python:3.11-slim-bookworm"
#: What the images may weigh beside the base, in MB; the recognizer with the embedder that ships, with FaceNet 300.
LIMITS = {"detector": 330, "recognizer": 200, "gateway": 80}
REST_SECONDS = 20.0
ANSWER_SECONDS = 600.0
_UNITS = {"KiB": 2**-10, "MiB": 1.0, "GiB": 2.0**10}


@dataclass(frozen=True)
class Project:
    """A compose project: its environment, and where its gateway is published."""

    environment: Mapping[str, str]
    url: str

    @classmethod
    def make(cls, embedder: str) -> "Project":
        ports = {name: str(free_port()) for name in ("FACEWIRE_HTTP_PORT", "FACEWIRE_MQTTS_PORT")}
        own = {"COMPOSE_PROJECT_NAME": "facewire-bench", "COMPOSE_FILE": str(ROOT / "docker-compose.yml"), **ports}
        return cls({**os.environ, **own, "EMBEDDER": embedder}, f"http://127.0.0.1:{ports['FACEWIRE_HTTP_PORT']}")

    def docker(self, *arguments: str) -> str:
        done = subprocess.run(
            ["docker", *arguments], cwd=ROOT, env=self.environment, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise RuntimeError(f"docker {' '.join(arguments)}: {done.stderr[-2000:]}")
        return done.stdout

    def containers(self) -> dict[str, Any]:
        """Return what `docker inspect` says about each service's container."""
        ids = self.docker("compose", "ps", "--all", "--quiet").split()
        described = json.loads(self.docker("inspect", *ids))
        return {one["Config"]["Labels"]["com.docker.compose.service"]: one for one in described}

    def memory(self, names: Mapping[str, str]) -> dict[str, float]:
        """Return the memory of each running container in MiB; `names` are the services by container name."""
        lines = self.docker("stats", "--no-stream", "--format", "{{json .}}", *names).splitlines()
        return {names[row["Name"]]: _mebibytes(row["MemUsage"]) for row in map(json.loads, lines)}


def _mebibytes(usage: str) -> float:
    """Return the first amount of `120.8MiB / 2GiB` in MiB."""
    amount = usage.split("/", maxsplit=1)[0].strip()
    unit = amount[-3:]
    return float(amount[:-3]) * _UNITS[unit] if unit in _UNITS else 0.0


def image_size(project: Project, image: str) -> float:
    """Return the size of an image in MB."""
    return int(project.docker("image", "inspect", "--format", "{{.Size}}", image)) / 1e6


def seconds_to_healthy(container: Mapping[str, Any]) -> float | None:
    """Return the time from the start of a container to the end of its first good health check."""
    checks = container["State"].get("Health", {}).get("Log") or []
    good = [check["End"] for check in checks if check["ExitCode"] == 0]
    return (_moment(good[0]) - _moment(container["State"]["StartedAt"])).total_seconds() if good else None


def _moment(text: str) -> datetime:
    """Return the time that Docker wrote, in UTC or with an offset, without its nanoseconds."""
    return datetime.fromisoformat(re.sub(r"(\.\d{6})\d*", r"\1", text.replace("Z", "+00:00")))


async def under_load(project: Project, key: str, frames: Sequence[Picture], count: int) -> float:
    """Send `count` frames over HTTP, eight at a time, wait for all answers; return frames per second."""
    free = asyncio.Semaphore(8)
    ids = [str(uuid.uuid4()) for _ in range(count)]
    began = time.perf_counter()
    async with Client.open(project.url, key) as client, asyncio.timeout(ANSWER_SECONDS):

        async def send(number: int) -> None:
            async with free:
                await client.submit(frames[number % len(frames)], request_id=ids[number])

        async with asyncio.TaskGroup() as tasks:
            for number in range(count):
                tasks.create_task(send(number))
        for request_id in ids:
            while await client.result(request_id) is None:
                pass
    return count / (time.perf_counter() - began)


async def peaks(project: Project, names: Mapping[str, str], load: "asyncio.Task[float]") -> dict[str, float]:
    """Return the largest memory of each container seen until `load` ends."""
    most: dict[str, float] = {}
    while not load.done():
        for service, mebibytes in (await asyncio.to_thread(project.memory, names)).items():
            most[service] = max(most.get(service, 0.0), mebibytes)
    return most


async def load_and_peaks(
    project: Project, names: Mapping[str, str], frames: Sequence[Picture], count: int
) -> tuple[float, dict[str, float]]:
    key = project.docker("compose", "run", "--rm", "-T", "init", "keys", "add", "bench", "--role", "admin").strip()
    async with asyncio.TaskGroup() as tasks:
        load = tasks.create_task(under_load(project, key, frames, count))
        most = tasks.create_task(peaks(project, names, load))
    return load.result(), most.result()


def measure(project: Project, frames: Sequence[Picture], count: int, console: Console) -> None:
    base = image_size(project, BASE_IMAGE)
    began = time.perf_counter()
    project.docker("compose", "up", "--detach", "--wait")
    started = time.perf_counter() - began
    containers = project.containers()
    names = {one["Name"].lstrip("/"): service for service, one in containers.items() if one["State"]["Running"]}
    time.sleep(REST_SECONDS)
    rest = project.memory(names)
    rate, most = asyncio.run(load_and_peaks(project, names, frames, count))
    table = Table("container", "image MB without base", "at most", "s to healthy", "MiB at rest", "MiB under load")
    for service, container in sorted(containers.items()):
        own = "build" in json.loads(project.docker("compose", "config", "--format", "json"))["services"][service]
        size = f"{image_size(project, container['Image']) - base:.0f}" if own else "-"
        healthy = seconds_to_healthy(container)
        table.add_row(
            service,
            size,
            str(LIMITS.get(service, "-")),
            "-" if healthy is None else f"{healthy:.1f}",
            f"{rest[service]:.0f}" if service in rest else "-",
            f"{most[service]:.0f}" if service in most else "-",
        )
    console.print(table)
    console.print(f"docker compose up --wait: {started:.1f} s; {count} frames over HTTP: {rate:.1f} a second")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--embedder", default="dlib-resnet29", help="the embedder built into the recognizer")
    parser.add_argument("--frames", type=Path, default=ROOT / "samples", help="a folder of JPEG files")
    parser.add_argument("--count", type=int, default=300, help="frames to send")
    arguments = parser.parse_args()
    frames = [Picture.read(path) for path in sorted(arguments.frames.glob("*.jpg"))]
    console = Console()
    console.print(f"{describe()}, {arguments.embedder}")
    project = Project.make(arguments.embedder)
    project.docker("compose", "down", "--volumes", "--remove-orphans")
    try:
        project.docker("compose", "build")
        measure(project, frames, arguments.count, console)
    finally:
        project.docker("compose", "down", "--volumes", "--remove-orphans")


if __name__ == "__main__":
    main()
