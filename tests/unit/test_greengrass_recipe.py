"""The recipe against a schema of the format 2020-01-25, and against what the component understands."""

import importlib.util
import json
import re
import shutil
import subprocess
import zipfile
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field
from structlog.testing import capture_logs

from facewire_greengrass.settings import ComponentSettings, NucleusSettings, matches

ROOT = Path(__file__).parents[2]
NAME = "com.clientdevices.FaceDetection"


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Dependency(Strict):
    VersionRequirement: str
    DependencyType: Literal["HARD", "SOFT"] = "HARD"


class Policy(Strict):
    policyDescription: str  # noqa: N815 - AWS's name
    operations: list[Annotated[str, Field(pattern=r"^aws\.greengrass#[A-Za-z]+$")]] = Field(min_length=1)
    resources: list[str] = Field(min_length=1)


class Configuration(Strict):
    DefaultConfiguration: dict[str, Any]


class Step(Strict):
    Script: str
    Timeout: int = 120
    RequiresPrivilege: bool = False
    Setenv: dict[str, str] = Field(default_factory=dict)


class Lifecycle(Strict):
    Setenv: dict[str, str] = Field(default_factory=dict)
    Install: Step
    Run: Step


class Platform(Strict):
    os: Literal["linux"]
    architecture: Literal["amd64", "aarch64"]


class Permission(Strict):
    Read: Literal["NONE", "OWNER", "ALL"]
    Execute: Literal["NONE", "OWNER", "ALL"]


class Artifact(Strict):
    URI: str = Field(pattern=r"^s3://[^/]+/.+\.zip$")
    Unarchive: Literal["NONE", "ZIP"]
    Permission: Permission


class Manifest(Strict):
    Name: str
    Platform: Platform
    Lifecycle: Lifecycle
    Artifacts: list[Artifact]


class Recipe(Strict):
    RecipeFormatVersion: Literal["2020-01-25"]
    ComponentName: str = Field(pattern=r"^[A-Za-z0-9._-]{1,128}$")
    ComponentVersion: str = Field(pattern=r"^\d+\.\d+\.\d+$")
    ComponentType: Literal["aws.greengrass.generic"]
    ComponentDescription: str
    ComponentPublisher: str
    ComponentDependencies: dict[str, Dependency]
    ComponentConfiguration: Configuration
    Manifests: list[Manifest]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """Return tools/greengrass.py as a module."""
    spec = importlib.util.spec_from_file_location("greengrass", ROOT / "tools" / "greengrass.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def rendered(script: ModuleType) -> str:
    recipe = (ROOT / "deploy" / "greengrass" / "recipe.json").read_text()
    return str(script.render(recipe, version="1.2.3", bucket="pictures"))


@pytest.fixture
def recipe(rendered: str) -> Recipe:
    return Recipe.model_validate_json(rendered)


def policies(recipe: Recipe) -> list[Policy]:
    services = recipe.ComponentConfiguration.DefaultConfiguration["accessControl"].values()
    return [Policy.model_validate(policy) for service in services for policy in service.values()]


def test_the_recipe_is_one_of_its_format(recipe: Recipe, rendered: str) -> None:
    assert (recipe.ComponentName, recipe.ComponentVersion) == (NAME, "1.2.3")
    assert {manifest.Platform.architecture for manifest in recipe.Manifests} == {"amd64", "aarch64"}
    assert "COMPONENT_VERSION" not in rendered
    assert "BUCKET_NAME" not in rendered
    assert len(rendered.encode()) < 16_384  # "AWS IoT Greengrass V2 endpoints and quotas": a recipe's size


def test_each_device_installs_from_its_own_archive_and_nothing_else(recipe: Recipe) -> None:
    for manifest in recipe.Manifests:
        (artifact,) = manifest.Artifacts
        folder = artifact.URI.rpartition("/")[2].removesuffix(".zip")
        install = manifest.Lifecycle.Install.Script
        assert install.endswith(f"--no-index --no-deps '{{artifacts:decompressedPath}}/{folder}/'*.whl")
        assert f"/{NAME}/1.2.3/" in artifact.URI


def test_the_process_gets_the_signal_itself_and_needs_no_privileges(recipe: Recipe) -> None:
    for manifest in recipe.Manifests:
        assert manifest.Lifecycle.Run.Script.startswith("exec ")
        assert not manifest.Lifecycle.Install.RequiresPrivilege
        assert not manifest.Lifecycle.Run.RequiresPrivilege


def test_the_default_configuration_is_what_the_component_takes_for_granted(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT", "/run/ipc.sock")
    monkeypatch.setenv("SVCUID", "token")
    nucleus = NucleusSettings.read()
    with capture_logs() as logs:
        settings = ComponentSettings.of(recipe.ComponentConfiguration.DefaultConfiguration, nucleus)
    assert not logs
    # A device has a smaller disk than a server.
    assert settings == ComponentSettings.of({"inbox_bytes": 256 * 1024**2}, nucleus)


def test_the_component_may_do_what_its_configuration_asks_for_and_no_more(recipe: Recipe) -> None:
    configuration = recipe.ComponentConfiguration.DefaultConfiguration
    allowed = {pair for policy in policies(recipe) for pair in product(policy.operations, policy.resources)}
    results = configuration["results_topic"].replace("+", "*")
    assert allowed == {
        ("aws.greengrass#SubscribeToTopic", configuration["topic"].replace("+", "*")),
        ("aws.greengrass#PublishToTopic", results),
        ("aws.greengrass#PublishToIoTCore", results),
    }
    assert not matches(configuration["topic"], configuration["results_topic"])


def test_no_account_queue_or_thing_is_named(rendered: str) -> None:
    configuration = json.loads(rendered)["ComponentConfiguration"]["DefaultConfiguration"]
    assert "amazonaws" not in rendered
    assert "Thing" not in rendered
    assert not configuration["secrets"]


def test_the_deployment_of_the_readme_configures_what_the_recipe_expects(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    if (jq := shutil.which("jq")) is None:
        pytest.skip("jq is not installed")
    readme = (ROOT / "deploy" / "greengrass" / "README.md").read_text()
    block = re.search(r"--arg responses [^']+'(?P<program>[^']+)'", readme)
    assert block is not None
    arguments = ["--arg", "requests", "https://queues/requests", "--arg", "responses", "https://queues/responses"]
    made = subprocess.run([jq, "-n", *arguments, block["program"]], check=True, capture_output=True, text=True)
    merged = {
        name.rpartition(".")[2]: json.loads(component["configurationUpdate"]["merge"])
        for name, component in json.loads(made.stdout).items()
    }
    monkeypatch.setenv("AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT", "/run/ipc.sock")
    monkeypatch.setenv("SVCUID", "token")
    configuration = recipe.ComponentConfiguration.DefaultConfiguration | merged["FaceDetection"]
    settings = ComponentSettings.of(configuration, NucleusSettings.read())
    assert (settings.request_queue, settings.response_queue) == tuple(arguments[2::3])
    relayed = {name: mapping["topic"] for name, mapping in merged["Bridge"]["mqttTopicMapping"].items()}
    assert relayed == {"frames": settings.topic, "results": settings.results_topic}


def test_the_same_wheels_make_the_same_archive(script: ModuleType, tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    for name in ("b-1-py3-none-any.whl", "a-1-py3-none-any.whl"):
        (wheels / name).write_bytes(name.encode())
    script.pack(wheels, tmp_path / "one.zip")
    (wheels / "a-1-py3-none-any.whl").touch()
    script.pack(wheels, tmp_path / "two.zip")
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "one.zip") as archive:
        assert archive.namelist() == ["a-1-py3-none-any.whl", "b-1-py3-none-any.whl"]
        assert archive.read("b-1-py3-none-any.whl") == b"b-1-py3-none-any.whl"
