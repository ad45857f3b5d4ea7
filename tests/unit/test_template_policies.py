"""deploy/aws: who may do what. Each function has a role of its own that names its actions and resources."""

import json
import re
from typing import Any

import pytest

from aws_stack import TEMPLATES, read_template

FILES = sorted(TEMPLATES.glob("*.yaml"))
#: Lines that say who, what or where in a policy, in one line or as a list.
POLICY_LINE = re.compile(
    r"^\s*(- )?(NotAction|Action|Resource|Principal): |^\s*- (!Sub |\"|')?[\w${}.:*/-]+['\"]?\s*(#|$)"
)
TLS_ONLY = {"Bool": {"aws:SecureTransport": "false"}}


def roles(name: str) -> dict[str, dict[str, Any]]:
    resources = read_template(name)["Resources"]
    return {key: found["Properties"] for key, found in resources.items() if found["Type"] == "AWS::IAM::Role"}


def statements(name: str) -> list[dict[str, Any]]:
    """Return every statement of every policy in a template."""
    found: list[dict[str, Any]] = []

    def search(value: Any) -> None:
        if isinstance(value, dict):
            if "Effect" in value:
                found.append(value)
            for held in value.values():
                search(held)
        elif isinstance(value, list):
            for held in value:
                search(held)

    search(read_template(name)["Resources"])
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_star_has_a_reason_beside_it(path: Any) -> None:
    lines = path.read_text().splitlines()
    for number, line in enumerate(lines):
        code, _, reason = line.partition("#")
        if POLICY_LINE.match(line) and "*" in code:
            above = lines[number - 1].strip()
            assert reason.strip() or above.startswith("#"), f"{path.name}:{number + 1}: {line.strip()}"


def test_the_search_for_stars_sees_every_one_in_a_policy() -> None:
    for path in FILES:
        matched = sum(
            line.partition("#")[0].count("*") for line in path.read_text().splitlines() if POLICY_LINE.match(line)
        )
        assert matched == sum(_stars(statement) for statement in statements(path.name)) + _open_permissions(path.name)


def _stars(statement: dict[str, Any]) -> int:
    return sum(str(statement.get(key, "")).count("*") for key in ("Action", "Resource", "Principal"))


def _open_permissions(name: str) -> int:
    resources = read_template(name)["Resources"].values()
    return sum(
        found["Properties"]["Principal"] == "*" for found in resources if found["Type"] == "AWS::Lambda::Permission"
    )


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_policies_allow_no_service_as_a_whole(path: Any) -> None:
    for statement in statements(path.name):
        actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
        assert "NotAction" not in statement
        assert "NotResource" not in statement
        if statement["Effect"] == "Allow":
            assert not [action for action in actions if "*" in action]
            assert statement.get("Principal") != "*"


def test_every_function_has_a_role_of_its_own() -> None:
    resources = read_template("template.yaml")["Resources"]
    functions = {
        key: found["Properties"] for key, found in resources.items() if found["Type"] == "AWS::Serverless::Function"
    }
    used = {key: function["Role"]["Fn::GetAtt"][0] for key, function in functions.items()}
    assert used == {key: key.removesuffix("Function") + "Role" for key in functions}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_roles_have_no_policies_but_those_beside_them(path: Any) -> None:
    for role in roles(path.name).values():
        assert "ManagedPolicyArns" not in role
        assert role["Policies"]


def test_what_reads_the_request_queue_may_not_write_the_gallery() -> None:
    """Every core may send there; people are enrolled by pictures that `enroll` reads."""
    (policy,) = roles("template.yaml")["RecognizeRole"]["Policies"]
    (actions,) = [
        entry["Action"]
        for entry in policy["PolicyDocument"]["Statement"]
        if entry["Resource"] == {"Fn::GetAtt": ["GalleryTable", "Arn"]}
    ]
    assert sorted(actions) == ["dynamodb:BatchGetItem", "dynamodb:GetItem", "dynamodb:Query"]


def test_the_key_of_enrolments_is_for_those_who_start_recognizers_alone() -> None:
    resources = read_template("recognizer-service.yaml")["Resources"]
    # AWS names it after its logical id, which cores' right to the names below the stack's does not reach.
    assert "Name" not in resources["EnrollKey"]["Properties"]
    readers = [entry for entry in statements("recognizer-service.yaml") if "secretsmanager" in str(entry["Action"])]
    assert [(entry["Action"], entry["Resource"]) for entry in readers] == [
        ("secretsmanager:GetSecretValue", {"Ref": "EnrollKey"})
    ]
    assert readers[0] in resources["ExecutionRole"]["Properties"]["Policies"][0]["PolicyDocument"]["Statement"]
    (container,) = resources["Task"]["Properties"]["ContainerDefinitions"]
    assert container["Secrets"] == [{"Name": "FACEWIRE_ENROLL_KEY", "ValueFrom": {"Ref": "EnrollKey"}}]
    (cores,) = [entry for entry in statements("template.yaml") if "secretsmanager" in str(entry["Action"])]
    assert cores["Resource"]["Fn::Sub"].endswith(":secret:${AWS::StackName}/*")


def test_a_function_writes_to_its_own_log_alone() -> None:
    for name, role in roles("template.yaml").items():
        found = [entry for policy in role["Policies"] for entry in policy["PolicyDocument"]["Statement"]]
        logs = [
            entry["Resource"] for entry in found if entry["Action"] == ["logs:CreateLogStream", "logs:PutLogEvents"]
        ]
        if role["AssumeRolePolicyDocument"]["Statement"][0]["Principal"] == {"Service": "lambda.amazonaws.com"}:
            assert logs == [{"Fn::GetAtt": [name.removesuffix("Role") + "Log", "Arn"]}]


def test_queues_and_buckets_are_encrypted_and_refuse_plain_http() -> None:
    for name in ("template.yaml", "registry.yaml"):
        resources = read_template(name)["Resources"]
        closed = _closed_to_plain_http(resources)
        for key, found in resources.items():
            if found["Type"] == "AWS::SQS::Queue":
                assert found["Properties"]["SqsManagedSseEnabled"] is True
                assert key in closed
            if found["Type"] == "AWS::S3::Bucket":
                assert set(found["Properties"]["PublicAccessBlockConfiguration"].values()) == {True}
                assert found["Properties"]["BucketEncryption"]
                assert key in closed


def _closed_to_plain_http(resources: dict[str, Any]) -> set[str]:
    closed: set[str] = set()
    for found in resources.values():
        if found["Type"] in {"AWS::SQS::QueuePolicy", "AWS::S3::BucketPolicy"}:
            properties = found["Properties"]
            denied = [
                entry for entry in properties["PolicyDocument"]["Statement"] if entry.get("Condition") == TLS_ONLY
            ]
            assert [entry["Effect"] for entry in denied] == ["Deny"]
            targets = json.dumps(properties.get("Queues", [properties.get("Bucket")]))
            closed |= set(re.findall(r'"Ref": "(\w+)"', targets))
    return closed


def test_the_url_is_open_to_all_only_where_it_was_asked_for() -> None:
    template = read_template("template.yaml")
    resources = template["Resources"]
    permissions = [found for found in resources.values() if found["Type"] == "AWS::Lambda::Permission"]
    open_to_all = [found for found in permissions if found["Properties"]["Principal"] == "*"]
    assert [found["Condition"] for found in open_to_all] == ["OpenToAll"] * 2
    assert template["Parameters"]["FunctionUrlAuth"]["Default"] == "AWS_IAM"


def test_nothing_of_one_account_is_in_the_templates() -> None:
    for path in FILES:
        assert not re.search(r"\b\d{12}\b|sqs\.[a-z0-9-]+\.amazonaws|arn:aws:", path.read_text()), path.name
