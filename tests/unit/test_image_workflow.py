"""The workflow that pushes images: what it names is there, and it may do no more than it needs."""

import re
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from aws_stack import ROOT, read_template

WORKFLOW = ROOT / ".github" / "workflows" / "image.yml"


def workflow() -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load(WORKFLOW.read_text())
    return read


def test_the_files_it_names_are_there() -> None:
    named = re.findall(r"(?:tests|deploy|services)/[\w./]+\.\w+|[\w/]+/Dockerfile", WORKFLOW.read_text())
    assert len(named) >= 6
    assert not [name for name in named if not (ROOT / name).is_file()]


def test_it_reads_the_code_and_takes_the_role_only_where_it_pushes() -> None:
    read = workflow()
    assert read["permissions"] == {"contents": "read"}
    assert {name: job.get("permissions") for name, job in read["jobs"].items()} == {
        "template": None,
        "image": {"contents": "read", "id-token": "write"},
    }


def test_only_the_main_branch_takes_the_role() -> None:
    (step,) = [step for step in workflow()["jobs"]["image"]["steps"] if step.get("id") == "role"]
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
