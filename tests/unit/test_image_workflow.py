"""The workflow that pushes images: what it names is there, and it may do no more than it needs."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from aws_stack import ROOT, read_template
from facewire.vision.models import DEFAULT_EMBEDDER
from lambda_host import python_path

WORKFLOW = ROOT / ".github" / "workflows" / "image.yml"
#: The first major versions that run on Node 24. GitHub's runners have had no older Node since September 2026.
NODE_24 = {
    "actions/checkout": 5,
    "actions/setup-python": 6,
    "aws-actions/amazon-ecr-login": 2,
    "aws-actions/configure-aws-credentials": 6,
}


def workflow() -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load(WORKFLOW.read_text())
    return read


def steps(job: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = workflow()["jobs"][job]["steps"]
    return found


def runs(job: str) -> list[str]:
    return [step["run"] for step in steps(job) if "run" in step]


def test_the_files_it_names_are_there() -> None:
    named = re.findall(r"(?:tests|deploy|services)/[\w./]+\.\w+|[\w/]+/Dockerfile", WORKFLOW.read_text())
    assert len(named) >= 4
    assert not [name for name in named if not (ROOT / name).is_file()]


def test_it_reads_the_code_and_takes_the_role_only_where_it_pushes() -> None:
    read = workflow()
    assert read["permissions"] == {"contents": "read"}
    assert {name: job.get("permissions") for name, job in read["jobs"].items()} == {
        "test": None,
        "image": {"contents": "read", "id-token": "write"},
    }


def test_only_the_main_branch_takes_the_role() -> None:
    (step,) = [step for step in steps("image") if step.get("id") == "role"]
    assert "github.ref == 'refs/heads/main'" in step["if"]
    trust = read_template("registry.yaml")["Resources"]["GitHubRole"]["Properties"]["AssumeRolePolicyDocument"]
    (statement,) = trust["Statement"]
    subject = statement["Condition"]["StringEquals"]["token.actions.githubusercontent.com:sub"]
    assert subject == {"Fn::Sub": "repo:${GitHubRepository}:ref:refs/heads/${GitHubBranch}"}


def test_it_pushes_to_the_repositories_of_the_registry() -> None:
    resources = read_template("registry.yaml")["Resources"].values()
    names = [found["Properties"]["RepositoryName"]["Fn::Sub"] for found in resources if "Repository" in found["Type"]]
    images = [image["name"] for image in workflow()["jobs"]["image"]["strategy"]["matrix"]["include"]]
    assert sorted(names) == sorted(f"${{AWS::StackName}}-{image}" for image in images)


def test_it_holds_no_keys() -> None:
    assert not re.search(r"secrets\.|AKIA|aws-access-key", Path(WORKFLOW).read_text())


@pytest.mark.parametrize(
    ("repository", "taken"),
    [
        ("", True),
        ("octo-org@123456/octo.repo@456789", True),
        ("octo-org/octo.repo", True),
        ("octo-org/octo.repo@456789", False),
        ("octo-org@123456/*", False),
        ("octo-org", False),
    ],
)
def test_the_role_is_for_a_repository_as_tokens_name_it(repository: str, *, taken: bool) -> None:
    """Repositories made after 15 July 2026 have their numbers in the subject of their tokens."""
    pattern = read_template("registry.yaml")["Parameters"]["GitHubRepository"]["AllowedPattern"]
    assert (re.fullmatch(pattern, repository) is not None) is taken


def test_nothing_is_pushed_that_was_not_tested() -> None:
    assert workflow()["jobs"]["image"]["needs"] == "test"
    assert runs("test") == ["make check", "make rie test"]
    tried = [step.get("if") for step in steps("image") if step.get("name", "").startswith(("Try", "See"))]
    images = [image["name"] for image in workflow()["jobs"]["image"]["strategy"]["matrix"]["include"]]
    assert tried == [f"matrix.name == '{image}'" for image in images]


def test_no_test_is_skipped_for_want_of_an_emulator() -> None:
    for job in ("test", "image"):
        (ran,) = [
            step["run"] for step in steps(job) if "pytest" in step.get("run", "") or "test" in step.get("run", "")
        ]
        assert re.search(r"^make (setup rie$|rie test$)", ran, re.MULTILINE), ran


def test_the_recognizer_is_tried_by_a_program_that_runs() -> None:
    (program,) = [step["env"]["PROGRAM"] for step in steps("image") if "PROGRAM" in step.get("env", {})]
    plain = {name: value for name, value in os.environ.items() if not name.startswith("FACEWIRE_")}
    environment = {**plain, "PYTHONPATH": python_path()}
    ran = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert ran.stdout.startswith(DEFAULT_EMBEDDER), ran.stderr


def test_actions_run_on_a_node_that_the_runners_have() -> None:
    used = re.findall(r"uses: ([\w./-]+)@v(\d+)$", WORKFLOW.read_text(), re.MULTILINE)
    assert {name for name, _ in used} == set(NODE_24)
    assert not [name for name, version in used if int(version) < NODE_24[name]]
