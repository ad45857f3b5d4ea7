"""The workflows of tests and releases, and what keeps versions fresh: what they name is there, they may do little."""

import importlib
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from facewire.vision.models import DEFAULT_EMBEDDER

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
RELEASE = ROOT / ".github" / "workflows" / "release.yml"
#: The first major versions that run on Node 24, for the actions that GitHub and AWS make. All others: a commit.
NODE_24 = {
    "actions/checkout": 5,
    "actions/download-artifact": 7,
    "actions/setup-python": 6,
    "actions/upload-artifact": 6,
    "aws-actions/amazon-ecr-login": 2,
    "aws-actions/configure-aws-credentials": 6,
}


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(path.read_text())
    return found


def jobs(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = read(path)["jobs"]
    return found


def project() -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return found


def images() -> list[dict[str, str]]:
    found: list[dict[str, str]] = jobs(RELEASE)["image"]["strategy"]["matrix"]["image"]
    return found


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_pinned_to_a_version_that_runs_or_to_a_commit(path: Path) -> None:
    used = re.findall(r"uses: ([^.\s]\S*)@(\S+)", path.read_text())
    for name, version in used:
        if name in NODE_24:
            assert int(version.removeprefix("v")) >= NODE_24[name], name
        else:
            assert re.fullmatch(r"[0-9a-f]{40}", version), name


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_reads_the_code_and_holds_no_keys(path: Path) -> None:
    assert read(path)["permissions"] == {"contents": "read"}
    assert "secrets." not in path.read_text()
    checkouts = [
        step for job in jobs(path).values() for step in job.get("steps", ()) if "checkout" in str(step.get("uses"))
    ]
    assert all(step["with"] == {"persist-credentials": False} for step in checkouts)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_what_is_not_ours_reaches_no_shell_but_by_the_environment(path: Path) -> None:
    runs = [step["run"] for job in jobs(path).values() for step in job.get("steps", ()) if "run" in step]
    assert not [run for run in runs if "${{" in run]


def test_a_release_may_write_only_where_it_publishes() -> None:
    assert {name: job.get("permissions") for name, job in jobs(RELEASE).items()} == {
        "test": None,
        "wheel": None,
        "image": {"contents": "read", "packages": "write"},
        "pypi": {"id-token": "write"},
        "name-images": {"packages": "write"},
    }


def test_nothing_is_released_that_was_not_tested() -> None:
    assert jobs(RELEASE)["test"] == {"uses": "./.github/workflows/test.yml"}
    needs = {name: job.get("needs") for name, job in jobs(RELEASE).items()}
    assert needs == {
        "test": None,
        "wheel": "test",
        "image": "test",
        "pypi": ["wheel", "image"],
        "name-images": ["wheel", "image"],
    }


def test_every_supported_python_is_tested() -> None:
    job = jobs(ROOT / ".github" / "workflows" / "test.yml")["test"]
    named = re.findall(r"Python :: (3\.\d+)", "\n".join(project()["classifiers"]))
    assert job["strategy"]["matrix"]["python"] == named
    assert [step["run"] for step in job["steps"] if step.get("run", "").startswith("make")] == [
        "make check",
        "make coverage",
        "make rie test",
    ]


def test_the_commands_that_are_run_are_those_of_the_makefile() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {
        name
        for path in WORKFLOWS
        for line in re.findall(r"\bmake ([\w -]+)$", path.read_text(), re.MULTILINE)
        for name in line.split()
    }
    assert named
    assert named <= targets


def test_the_images_are_built_from_what_is_there() -> None:
    for image in images():
        dockerfile = (ROOT / image["dockerfile"]).read_text()
        assert "target" not in image or re.search(rf"^FROM \S+ AS {image['target']}$", dockerfile, re.MULTILINE)
    (build,) = [step for step in jobs(RELEASE)["image"]["steps"] if step.get("name") == "Build"]
    assert build["env"]["EMBEDDER"] == DEFAULT_EMBEDDER
    for image in images():
        assert importlib.import_module(image["module"])


def test_every_image_gets_one_name_for_both_processors() -> None:
    (join,) = [step["run"] for step in jobs(RELEASE)["name-images"]["steps"]]
    names = re.findall(r"for IMAGE in ([\w ]+); do", join)[0].split()
    assert names == [image["name"] for image in images()]
    architectures = jobs(RELEASE)["image"]["strategy"]["matrix"]["arch"]
    assert re.findall(r"\$\{TAG#v\}-(\w+)", join) == architectures


@pytest.mark.parametrize(
    ("tag", "dated", "passes"), [("v1.2.3", True, True), ("v1.2.4", True, False), ("v1.2.3", False, False)]
)
def test_a_tag_has_to_name_the_version_that_the_changelog_dates(
    tmp_path: Path, tag: str, *, dated: bool, passes: bool
) -> None:
    (tmp_path / "pyproject.toml").write_text('[project]\nversion = "1.2.3"\n')
    (tmp_path / "CHANGELOG.md").write_text(f"## [1.2.3] - {'2026-12-01' if dated else 'unreleased'}\n")
    (step,) = [
        step["run"] for step in jobs(RELEASE)["wheel"]["steps"] if str(step.get("name")).startswith("See that the tag")
    ]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    ran = subprocess.run(
        ["bash", "-e", "-c", step],
        cwd=tmp_path,
        env={"PATH": path, "GITHUB_REF_NAME": tag},
        capture_output=True,
        check=False,
    )
    assert (ran.returncode == 0) is passes, ran.stderr


def test_dependabot_looks_where_versions_are() -> None:
    updates = {update["package-ecosystem"]: update for update in read(ROOT / ".github" / "dependabot.yml")["updates"]}
    assert set(updates) == {"pip", "github-actions", "docker", "docker-compose"}
    for folder in updates["pip"]["directories"]:
        assert (
            list((ROOT / folder.strip("/")).glob("*requirements.txt"))
            or (ROOT / folder.strip("/") / "constraints.txt").is_file()
        )
    docker = [
        path for pattern in updates["docker"]["directories"] for path in ROOT.glob(f"{pattern.strip('/')}/Dockerfile")
    ]
    assert sorted(docker) == sorted([*ROOT.glob("services/*/Dockerfile"), *ROOT.glob("deploy/*/Dockerfile")])


def test_the_hooks_run_what_make_check_runs() -> None:
    hooks = [hook for repo in read(ROOT / ".pre-commit-config.yaml")["repos"] for hook in repo["hooks"]]
    check = (ROOT / "Makefile").read_text().partition("\ncheck:")[2].partition("\n\n")[0]
    commands = re.findall(r"\$\(BIN\)/(.+)$", check, re.MULTILINE)
    assert [hook["entry"].removeprefix(".venv/bin/").removesuffix(" --force-exclude") for hook in hooks] == commands
