"""The image of the functions, each of them under the real Lambda runtime interface emulator.

It is built with the embedder that ships; FACEWIRE_LAMBDA_IMAGE names one to be tried instead.
"""

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from itertools import count
from pathlib import Path

import pytest

import lambda_scenarios as scenarios
from compose_stack import missing_engine
from lambda_account import Account, new_account
from lambda_host import ENTRYPOINT, ROOT, Runtime, container

pytestmark = pytest.mark.timeout(900)
_BUILD_SECONDS = 800
#: What AWS Lambda has in its cache starts fast; the base image is about 130 MB of it, FaceNet would be 94 MB more.
_LARGEST_BYTES = 600_000_000


@pytest.fixture(scope="module")
def image() -> str:
    if (missing := missing_engine()) is not None:
        pytest.skip(missing)
    if named := os.environ.get("FACEWIRE_LAMBDA_IMAGE"):
        return named
    dockerfile = ["--file", "deploy/aws_lambda/Dockerfile", "--build-arg", "EMBEDDER=dlib-resnet29"]
    built = subprocess.run(
        ["docker", "build", *dockerfile, "--tag", "facewire-e2e-lambda", "."],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=_BUILD_SECONDS,
        check=False,
    )
    assert built.returncode == 0, built.stdout[-2000:] + built.stderr[-2000:]
    return "facewire-e2e-lambda"


@pytest.fixture
def account(aws_environment: str) -> Iterator[Account]:
    with ExitStack() as opened:
        yield Account(new_account(aws_environment), opened)


@pytest.fixture
def start(image: str, tmp_path: Path) -> scenarios.Start:
    numbers = count()

    def start(handler: str, environment: Mapping[str, str]) -> AbstractContextManager[Runtime]:
        return container(image, handler, environment, tmp_path / f"{next(numbers)}.log")

    return start


def test_people_are_enrolled_and_named(start: scenarios.Start, account: Account, samples: Path) -> None:
    scenarios.enrols_and_names(start, account, samples)


def test_of_ten_messages_exactly_the_poisoned_one_fails(
    start: scenarios.Start, account: Account, samples: Path
) -> None:
    scenarios.reports_exactly_the_poisoned_message(start, account, samples)


def test_pictures_of_the_bucket_are_kept(start: scenarios.Start, account: Account, samples: Path) -> None:
    scenarios.keeps_pictures_of_the_bucket(start, account, samples)


def test_dead_letters_are_answered(start: scenarios.Start, account: Account) -> None:
    scenarios.answers_dead_letters(start, account)


def test_the_image_is_small_and_starts_the_runtime_client(image: str) -> None:
    [described] = json.loads(
        subprocess.run(["docker", "image", "inspect", image], check=True, capture_output=True).stdout
    )
    assert described["Size"] < _LARGEST_BYTES
    assert described["Config"]["Entrypoint"] == ENTRYPOINT
    assert described["Config"]["User"] == "10001:10001"


def test_nothing_that_trains_or_compiles_is_in_the_image(image: str) -> None:
    program = "import importlib.util as u; print([n for n in ('torch', 'onnx', 'pip') if u.find_spec(n)])"
    command = ["docker", "run", "--rm", "--entrypoint", "python", image, "-c", program]
    found = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    assert found in {"[]", "['pip']"}  # the base image brings pip
