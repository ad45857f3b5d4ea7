"""deploy/aws/template.yaml as a stack of the emulator, which checks signatures, policies and TLS as AWS does.

The emulator runs no functions from images, but processes of a runtime of their own: that is awslambdaric here as it is
in the image, with the same handlers, roles and settings, and the code is found by PYTHONPATH.
"""

import copy
import io
import json
import os
import re
import ssl
import sys
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import botocore.session  # type: ignore[import-untyped]
import pytest
from botocore.credentials import Credentials  # type: ignore[import-untyped]
from samtranslator.translator.transform import transform  # type: ignore[import-untyped]
from samtranslator.yaml_helper import yaml_parse  # type: ignore[import-untyped]

from aws_emulator import REGION, free_port, ministack
from facewire.adapters.mqtt.certificates import Authority, new_key

ROOT = Path(__file__).resolve().parents[1]
TEMPLATES = ROOT / "deploy" / "aws"
ACCOUNT = "123456789012"
#: Where the code of the functions is.
CODE = (ROOT / "src", ROOT / "deploy" / "aws_lambda")
#: What the emulator cannot make.
UNKNOWN = {
    "AWS::ApplicationAutoScaling::ScalableTarget",
    "AWS::ApplicationAutoScaling::ScalingPolicy",
    "AWS::Athena::NamedQuery",
}
IMAGE = f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/facewire-lambda:1"

_PACKAGES = "templates"
_STACK_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Cloud:
    """The emulator: clients of it are root of the account unless they are given a key."""

    endpoint: str
    ca_file: Path

    def client(self, service: str, user: Credentials | None = None) -> Any:
        """Return a client of the service, with the rights of that user."""
        return botocore.session.get_session().create_client(
            service,
            region_name=REGION,
            endpoint_url=self.endpoint,
            verify=str(self.ca_file),
            aws_access_key_id=user.access_key if user else ACCOUNT,
            aws_secret_access_key=user.secret_key if user else "test",
        )

    def trusted(self) -> ssl.SSLContext:
        """Return what trusts the emulator's certificate."""
        return ssl.create_default_context(cafile=self.ca_file)


@contextmanager
def guarded_cloud(folder: Path) -> Iterator[Cloud]:
    """Run the emulator with TLS, signatures and policies enforced, and pauses of state machines cut to nothing."""
    authority = Authority.make(new_key())
    issued = authority.issue("127.0.0.1", hosts=["127.0.0.1"])
    ca_file, certificate, key = folder / "ca.pem", folder / "server.pem", folder / "server.key"
    ca_file.write_bytes(authority.pem)
    certificate.write_bytes(issued.certificate + authority.pem)
    key.write_bytes(issued.key)
    port = free_port()
    settings = {
        "AUTH": "true",
        "AWS_ENDPOINT_URL": f"https://127.0.0.1:{port}",
        "USE_SSL": "1",
        "MINISTACK_SSL_CERT": str(certificate),
        "MINISTACK_SSL_KEY": str(key),
        "MINISTACK_ACCOUNT_ID": ACCOUNT,
        "SFN_WAIT_SCALE": "0",
        "AWS_CA_BUNDLE": str(ca_file),
        "TMPDIR": str(folder),
    }
    with ministack(folder / "log", port, settings=settings, ca_file=ca_file) as endpoint:
        yield Cloud(endpoint, ca_file)


def read_template(name: str) -> dict[str, Any]:
    """Return a template of deploy/aws; functions in short form (`!Ref`) are in their long form."""
    template: dict[str, Any] = yaml_parse((TEMPLATES / name).read_text())
    return template


def expanded(template: dict[str, Any], parameters: Mapping[str, str]) -> dict[str, Any]:
    """Return what AWS makes of a SAM template."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_DEFAULT_REGION", REGION)
        no_policies = SimpleNamespace(load=dict)
        result: dict[str, Any] = transform(copy.deepcopy(template), dict(parameters), no_policies)
    return result


def deploy(cloud: Cloud, name: str, parameters: Mapping[str, str], code: Sequence[Path] = CODE) -> dict[str, str]:
    """Deploy the stack, but for what the emulator does not know, with the code in those folders; return its outputs."""
    s3, cloudformation = cloud.client("s3"), cloud.client("cloudformation")
    s3.create_bucket(Bucket=_PACKAGES)
    s3.put_object(Bucket=_PACKAGES, Key="code.zip", Body=_bootstrap())
    template = _packaged(cloud, s3)
    numbers = _numbers(template, parameters)
    for resource in template["Resources"].values():
        if resource["Type"] == "AWS::Serverless::Function":
            _run_as_process(resource["Properties"], code)
    template = _with_batches(_known(expanded(template, parameters)))
    for resource in template["Resources"].values():
        if resource["Type"] == "AWS::Lambda::EventSourceMapping":
            resource["Properties"] = _with_numbers(resource["Properties"], numbers)
    cloudformation.create_stack(
        StackName=name,
        TemplateBody=json.dumps(template),
        Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()],
        Capabilities=["CAPABILITY_IAM"],
    )
    return _outputs(cloudformation, name)


def _packaged(cloud: Cloud, s3: Any) -> dict[str, Any]:
    """Return the template as `aws cloudformation package` leaves it: local files are in S3."""
    template = read_template("template.yaml")
    for resource in template["Resources"].values():
        properties = resource["Properties"]
        if resource["Type"] == "AWS::CloudFormation::Stack":
            child = json.dumps(_with_batches(_known(read_template(properties["TemplateURL"]))))
            s3.put_object(Bucket=_PACKAGES, Key=properties["TemplateURL"], Body=child.encode())
            properties["TemplateURL"] = f"{cloud.endpoint}/{_PACKAGES}/{properties['TemplateURL']}"
        elif resource["Type"] == "AWS::Serverless::StateMachine":
            definition = (TEMPLATES / properties["DefinitionUri"]).read_bytes()
            s3.put_object(Bucket=_PACKAGES, Key="definition.json", Body=definition)
            properties["DefinitionUri"] = {"Bucket": _PACKAGES, "Key": "definition.json"}
    return template


def _run_as_process(function: dict[str, Any], code: Sequence[Path]) -> None:
    """Let the emulator run the image's handler from the folders of the code."""
    del function["PackageType"], function["ImageUri"]
    (function["Handler"],) = function.pop("ImageConfig")["Command"]
    function["Runtime"] = "provided.al2023"
    function["CodeUri"] = {"Bucket": _PACKAGES, "Key": "code.zip"}
    function["Environment"]["Variables"]["PYTHONPATH"] = os.pathsep.join(map(str, code))


def _known(template: dict[str, Any]) -> dict[str, Any]:
    """Return the template without resources that the emulator does not know, and without those that name them."""
    resources = template["Resources"]
    while dropped := {name for name, resource in resources.items() if resource["Type"] in UNKNOWN}:
        named = re.compile(rf'"({"|".join(dropped)})"|\$\{{({"|".join(dropped)})[.}}]')
        resources = {
            name: resource
            for name, resource in resources.items()
            if name not in dropped and not named.search(json.dumps(resource))
        }
    return {**template, "Resources": resources}


def _numbers(template: dict[str, Any], parameters: Mapping[str, str]) -> dict[str, int]:
    """Return the parameters that are numbers: the emulator leaves them as text, and reads some of them as numbers."""
    numbers = {name: facts for name, facts in template["Parameters"].items() if facts["Type"] == "Number"}
    return {name: int(parameters.get(name, facts["Default"])) for name, facts in numbers.items()}


def _with_numbers(value: Any, numbers: Mapping[str, int]) -> Any:
    if isinstance(value, dict):
        if value.keys() == {"Ref"} and value["Ref"] in numbers:
            return numbers[value["Ref"]]
        return {key: _with_numbers(held, numbers) for key, held in value.items()}
    return [_with_numbers(held, numbers) for held in value] if isinstance(value, list) else value


def _with_batches(template: dict[str, Any]) -> dict[str, Any]:
    """Name the batched actions in all policies: the emulator asks for them, for AWS they are the single ones."""
    text = json.dumps(template)
    for action in ("sqs:SendMessage", "sqs:DeleteMessage", "sqs:ChangeMessageVisibility"):
        text = text.replace(f'"Action": "{action}"', f'"Action": ["{action}"]')
        text = text.replace(f'"{action}"', f'"{action}", "{action}Batch"')
    batched: dict[str, Any] = json.loads(text)
    return batched


def _bootstrap() -> bytes:
    """Return the archive of a runtime of one's own: what AWS calls to start a container."""
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w") as archive:
        member = zipfile.ZipInfo("bootstrap")
        member.external_attr = 0o755 << 16
        archive.writestr(member, f'#!/bin/sh\nexec "{sys.executable}" -m awslambdaric "$_HANDLER"\n')
    return body.getvalue()


def _outputs(cloudformation: Any, name: str) -> dict[str, str]:
    deadline = time.monotonic() + _STACK_SECONDS
    while time.monotonic() < deadline:
        (stack,) = cloudformation.describe_stacks(StackName=name)["Stacks"]
        if stack["StackStatus"] == "CREATE_COMPLETE":
            return {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]}
        if not stack["StackStatus"].endswith("IN_PROGRESS"):
            break
        time.sleep(0.1)
    events = cloudformation.describe_stack_events(StackName=name)["StackEvents"]
    failed = [event for event in events if "FAILED" in event["ResourceStatus"]]
    reasons = [f"{event['LogicalResourceId']}: {event.get('ResourceStatusReason')}" for event in failed]
    pytest.fail(f"the stack is {stack['StackStatus']}: " + "; ".join(reasons))
