"""deploy/aws: that the template is valid, and agrees with the code that runs on what it makes."""

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import AliasChoices

import facewire_lambda
from aws_stack import IMAGE, TEMPLATES, expanded, read_template
from facewire.adapters.aws.dynamodb.items import TTL
from facewire.adapters.aws.dynamodb.schema import INDEXES, WHOLE
from facewire.adapters.aws.provision import DEAD_SUFFIX, LARGEST_MESSAGE_BYTES
from facewire.domain.archive import PREFIX
from facewire.domain.ports import MAX_RECEIVES
from facewire_lambda.emf import NAMESPACE
from facewire_lambda.settings import LambdaSettings
from facewire_recognizer.service import RecognizerServiceSettings

NAMES = ("template.yaml", "analytics.yaml", "monitoring.yaml", "recognizer-service.yaml", "registry.yaml")
#: Lambda wants a queue to hide a message for at least six times the timeout of the function that reads it.
VISIBILITY_TIMEOUTS = 6
#: What an execution of a state machine of type EXPRESS may take in all.
EXPRESS_SECONDS = 300
#: The workflow pushes an image for each; the one that is deployed must stay.
COMMITS_BETWEEN_DEPLOYMENTS = 100
#: What `aws cloudformation deploy` takes without a bucket.
LARGEST_TEMPLATE_BYTES = 51_200


@pytest.fixture(scope="module")
def template() -> dict[str, Any]:
    return read_template("template.yaml")


@pytest.fixture(scope="module")
def resources(template: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = template["Resources"]
    return found


def of_type(resources: dict[str, Any], kind: str) -> dict[str, dict[str, Any]]:
    return {name: resource["Properties"] for name, resource in resources.items() if resource["Type"] == kind}


def functions(resources: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return of_type(resources, "AWS::Serverless::Function")


def mentions(value: object) -> set[str]:
    """Return the names that a part of a template refers to."""
    found = re.findall(r'"Ref": "(\w+)"|"Fn::GetAtt": \["(\w+)"|\$\{(\w+)', json.dumps(value))
    return {name for names in found for name in names if name}


def test_cfn_lint_finds_nothing() -> None:
    files = [str(TEMPLATES / name) for name in NAMES]
    assert {str(path) for path in TEMPLATES.glob("*.yaml")} == set(files)
    program = Path(sys.executable).with_name("cfn-lint")
    lint = subprocess.run([program, *files], capture_output=True, text=True, check=False)
    assert (lint.returncode, lint.stdout, lint.stderr) == (0, "", "")


def test_the_template_is_small_enough_to_be_deployed_as_a_file() -> None:
    assert (TEMPLATES / "template.yaml").stat().st_size < 0.9 * LARGEST_TEMPLATE_BYTES


def test_sam_expands_the_template(template: dict[str, Any]) -> None:
    packaged = json.loads(json.dumps(template))
    packaged["Resources"]["StateMachine"]["Properties"]["DefinitionUri"] = {"Bucket": "b", "Key": "k"}
    kinds = [resource["Type"] for resource in expanded(packaged, {"ImageUri": IMAGE})["Resources"].values()]
    assert kinds.count("AWS::Lambda::Function") == 6
    assert kinds.count("AWS::Lambda::EventSourceMapping") == 2


def test_every_handler_is_there(resources: dict[str, Any]) -> None:
    for function in functions(resources).values():
        (command,) = function["ImageConfig"]["Command"]
        module, _, name = command.rpartition(".")
        assert callable(getattr(importlib.import_module(module), name)), command


def test_every_setting_is_one_that_functions_know(template: dict[str, Any], resources: dict[str, Any]) -> None:
    every = template["Globals"]["Function"]["Environment"]["Variables"].keys()
    for name, function in functions(resources).items():
        unknown = {*every, *function["Environment"]["Variables"]} - _variables(LambdaSettings)
        assert not unknown, name


def test_a_recognizer_is_not_ended_because_a_queue_is_away() -> None:
    (task,) = of_type(read_template("recognizer-service.yaml")["Resources"], "AWS::ECS::TaskDefinition").values()
    (container,) = task["ContainerDefinitions"]
    assert container["HealthCheck"]["Command"][-1] == "http://127.0.0.1:9090/healthz"


def test_functions_are_told_their_own_defaults(
    template: dict[str, Any], resources: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    defaults = LambdaSettings.read()
    told = {"FACEWIRE_" + name.upper() for name in ("attributes", "gallery_file", "min_face_size", "threshold")}
    for function in functions(resources).values():
        variables = function["Environment"]["Variables"]
        for name in told & variables.keys():
            monkeypatch.setenv(name, str(template["Parameters"][variables[name]["Ref"]]["Default"]))
    assert LambdaSettings.read() == defaults
    assert told <= os.environ.keys()


def test_every_setting_is_one_that_recognizers_know() -> None:
    (task,) = of_type(read_template("recognizer-service.yaml")["Resources"], "AWS::ECS::TaskDefinition").values()
    (container,) = task["ContainerDefinitions"]
    assert {variable["Name"] for variable in container["Environment"]} <= _variables(RecognizerServiceSettings)


def _variables(settings: type[LambdaSettings | RecognizerServiceSettings]) -> set[str]:
    aliases = [field.validation_alias for field in settings.model_fields.values()]
    named = {str(name) for alias in aliases if isinstance(alias, AliasChoices) for name in alias.choices}
    return named | {
        f"FACEWIRE_{name.upper()}" for name, alias in zip(settings.model_fields, aliases, strict=True) if not alias
    }


def test_a_queue_hides_a_message_for_six_timeouts(template: dict[str, Any], resources: dict[str, Any]) -> None:
    longest_wait = template["Parameters"]["RecognizeBatchSeconds"]["MaxValue"]
    read = {
        event["Properties"]["Queue"]["Fn::GetAtt"][0]: function
        for function in functions(resources).values()
        for event in function.get("Events", {}).values()
    }
    assert read.keys() == {"RequestQueue", "RequestDeadQueue"}
    for queue, function in read.items():
        timeout = function.get("Timeout", template["Globals"]["Function"]["Timeout"])
        wait = longest_wait if "MaximumBatchingWindowInSeconds" in str(function["Events"]) else 0
        assert resources[queue]["Properties"]["VisibilityTimeout"] >= VISIBILITY_TIMEOUTS * timeout + wait


def test_batches_fail_in_part(resources: dict[str, Any]) -> None:
    events = [
        event["Properties"]
        for function in functions(resources).values()
        for event in function.get("Events", {}).values()
    ]
    assert [event["FunctionResponseTypes"] for event in events] == [["ReportBatchItemFailures"]] * 2
    assert all("MaximumConcurrency" in event["ScalingConfig"] for event in events)


def test_queues_bury_where_the_workers_look_for_dead_letters(resources: dict[str, Any]) -> None:
    queues = of_type(resources, "AWS::SQS::Queue")
    redriven = {name: queue["RedrivePolicy"] for name, queue in queues.items() if "RedrivePolicy" in queue}
    assert redriven.keys() == {"RequestQueue", "ResponseQueue", "CoreResponseQueue"}
    for name, policy in redriven.items():
        target = policy["deadLetterTargetArn"]["Fn::GetAtt"][0]
        assert queues[target]["QueueName"]["Fn::Sub"] == queues[name]["QueueName"]["Fn::Sub"] + DEAD_SUFFIX
        assert policy["maxReceiveCount"] >= MAX_RECEIVES


def test_queues_take_messages_as_large_as_ours(resources: dict[str, Any]) -> None:
    queues = of_type(resources, "AWS::SQS::Queue")
    events = queues.pop("EventDeadQueue")
    assert {queue.get("MaximumMessageSize") for queue in queues.values()} == {LARGEST_MESSAGE_BYTES}
    assert events["QueueName"]["Fn::Sub"].endswith("-events-dead")


def test_the_tables_are_those_of_the_stores(resources: dict[str, Any]) -> None:
    for table in of_type(resources, "AWS::DynamoDB::Table").values():
        assert table["TimeToLiveSpecification"] == {"AttributeName": TTL, "Enabled": True}
        assert _keys(table) == ["pk", "sk"]
    table = resources["ResultsTable"]["Properties"]
    indexes = {index["IndexName"]: index for index in table["GlobalSecondaryIndexes"]}
    assert indexes.pop("by_day")  # of the version before: an update takes one change of an index
    assert {name: tuple(_keys(index)) for name, index in indexes.items()} == INDEXES
    whole = {name for name, index in indexes.items() if index["Projection"]["ProjectionType"] == "ALL"}
    assert whole == {WHOLE}
    policy = json.dumps(resources["GatewayPolicy"])
    assert set(re.findall(r"/index/(\w+)", policy)) == INDEXES.keys()
    assert "GlobalSecondaryIndexes" not in resources["GalleryTable"]["Properties"]


def test_results_and_gallery_are_each_in_their_table(resources: dict[str, Any]) -> None:
    tables = {"FACEWIRE_TABLE": "ResultsTable", "FACEWIRE_GALLERY_TABLE": "GalleryTable"}
    for name, function in functions(resources).items():
        named = {key: value for key, value in function["Environment"]["Variables"].items() if key in tables}
        assert named == {key: {"Ref": tables[key]} for key in named}
        role = resources[function["Role"]["Fn::GetAtt"][0]]["Properties"]
        allowed = [entry for entry in role["Policies"][0]["PolicyDocument"]["Statement"] if "dynamodb:" in str(entry)]
        assert [entry["Resource"] for entry in allowed] == [{"Fn::GetAtt": [tables[key], "Arn"]} for key in named], name


def _keys(table: dict[str, Any]) -> list[str]:
    assert [key["KeyType"] for key in table["KeySchema"]] == ["HASH", "RANGE"]
    return [key["AttributeName"] for key in table["KeySchema"]]


def test_the_state_machine_tries_again_what_passes() -> None:
    states = json.loads((TEMPLATES / "statemachine.asl.json").read_text())["States"]
    final, ended, *passing = states["Recognise faces"]["Retry"]
    assert final["MaxAttempts"] == 0
    assert "Sandbox.Timedout" in ended["ErrorEquals"]
    assert passing[-1]["ErrorEquals"] == ["States.ALL"]


def test_a_picture_that_takes_too_long_is_recorded_before_an_express_execution_ends() -> None:
    states = json.loads((TEMPLATES / "statemachine.asl.json").read_text())["States"]
    recognise, record = states["Recognise faces"], states["Record the failure"]
    (ended,) = [retry for retry in recognise["Retry"] if "States.Timeout" in retry["ErrorEquals"]]
    attempts = (1 + ended["MaxAttempts"]) * recognise["TimeoutSeconds"] + ended["IntervalSeconds"]
    assert attempts + record["TimeoutSeconds"] < EXPRESS_SECONDS


def test_what_a_state_fails_in_is_recorded() -> None:
    states = json.loads((TEMPLATES / "statemachine.asl.json").read_text())["States"]
    tasks = {name: state for name, state in states.items() if state["Type"] == "Task"}
    recorder = tasks.pop("Record the failure")
    for state in tasks.values():
        assert state["Catch"] == [
            {"ErrorEquals": ["States.ALL"], "ResultPath": "$.error", "Next": "Record the failure"}
        ]
    assert states[recorder["Next"]]["Type"] == "Fail"


def test_the_state_machine_can_change_its_type(resources: dict[str, Any]) -> None:
    machine = resources["StateMachine"]["Properties"]
    assert machine["Type"] == {"Ref": "StateMachineType"}
    assert "${StateMachineType}" in machine["Name"]["Fn::Sub"]


def test_a_step_waits_longer_than_its_function_may_take(template: dict[str, Any], resources: dict[str, Any]) -> None:
    states = json.loads((TEMPLATES / "statemachine.asl.json").read_text())["States"]
    for state in states.values():
        if state["Type"] == "Task":
            name = state["Resource"].removeprefix("${").removesuffix("Arn}") + "Function"
            timeout = functions(resources)[name].get("Timeout", template["Globals"]["Function"]["Timeout"])
            assert state["TimeoutSeconds"] > timeout


def test_the_archive_is_the_table_of_athena() -> None:
    table = read_template("analytics.yaml")["Resources"]["ProcessedTable"]["Properties"]["TableInput"]
    text = json.dumps(table).replace("${Bucket}", "BUCKET").replace("${!day}", "${day}")
    plain = json.loads(re.sub(r'\{"Fn::Sub": ("[^"]*")\}', r"\1", text))
    assert plain == json.loads((TEMPLATES / "athena" / "table.json").read_text())
    assert plain["StorageDescriptor"]["Location"] == f"s3://BUCKET/{PREFIX}"


def test_the_saved_queries_are_the_files() -> None:
    saved = of_type(read_template("analytics.yaml")["Resources"], "AWS::Athena::NamedQuery").values()
    files = {path.stem: path.read_text().strip() for path in (TEMPLATES / "athena").glob("*.sql")}
    assert {query["Name"]: query["QueryString"].strip() for query in saved} == files
    assert len(files) == 3


def test_alarms_and_dashboard_watch_what_there_is(resources: dict[str, Any]) -> None:
    monitoring = (TEMPLATES / "monitoring.yaml").read_text()
    queues = of_type(resources, "AWS::SQS::Queue").values()
    named = [properties["QueueName"] for properties in queues]
    named += [properties["FunctionName"] for properties in functions(resources).values()]
    there = {name["Fn::Sub"].removeprefix("${AWS::StackName}-") for name in named}
    watched = set(re.findall(r'"\$\{Name\}-([a-z-]+)"', monitoring))
    assert watched == there


def test_the_queue_of_a_core_is_watched_where_there_is_one() -> None:
    resources = read_template("monitoring.yaml")["Resources"].values()
    alarms = [resource for resource in resources if resource["Type"] == "AWS::CloudWatch::Alarm"]
    of_cores = [alarm for alarm in alarms if "${Name}-core-" in str(alarm["Properties"]["Dimensions"])]
    assert [alarm for alarm in alarms if alarm.get("Condition") == "WithCoreResults"] == of_cores


def test_the_dashboard_shows_metrics_that_the_functions_write() -> None:
    dashboard = read_template("monitoring.yaml")["Resources"]["Dashboard"]["Properties"]["DashboardBody"]["Fn::Sub"]
    shown = [metric for widget in json.loads(dashboard)["widgets"] for metric in widget["properties"]["metrics"]]
    own = {metric[1] for metric in shown if metric[0] == NAMESPACE}
    code = "".join(path.read_text() for path in Path(facewire_lambda.__file__).parent.glob("*.py"))
    assert own
    assert not [name for name in own if f'"{name}"' not in code]


def test_every_function_has_alarms_on_errors_and_duration(resources: dict[str, Any]) -> None:
    alarms = of_type(read_template("monitoring.yaml")["Resources"], "AWS::CloudWatch::Alarm").values()
    seen = {(alarm["MetricName"], alarm["Dimensions"][0]["Value"].get("Fn::Sub")) for alarm in alarms}
    for function in functions(resources).values():
        name = function["FunctionName"]["Fn::Sub"].replace("AWS::StackName", "Name")
        assert ("Errors", name) in seen
        assert ("Duration", name) in seen or name.endswith("dead-letters")


def test_repositories_keep_as_many_images_as_the_readme_says() -> None:
    repositories = of_type(read_template("registry.yaml")["Resources"], "AWS::ECR::Repository").values()
    policies = [json.loads(repository["LifecyclePolicy"]["LifecyclePolicyText"]) for repository in repositories]
    (kept,) = {rule["selection"]["countNumber"] for policy in policies for rule in policy["rules"]}
    assert f"last {kept} images" in (TEMPLATES / "README.md").read_text()
    assert kept >= COMMITS_BETWEEN_DEPLOYMENTS


def test_the_readme_counts_the_alarms() -> None:
    alarms = [
        resource
        for resource in read_template("monitoring.yaml")["Resources"].values()
        if resource["Type"] == "AWS::CloudWatch::Alarm" and "Condition" not in resource
    ]
    assert f"| {len(alarms)} alarms at " in (TEMPLATES / "README.md").read_text()


def test_every_parameter_is_in_the_console_and_used(template: dict[str, Any]) -> None:
    groups = template["Metadata"]["AWS::CloudFormation::Interface"]["ParameterGroups"]
    assert sorted(name for group in groups for name in group["Parameters"]) == sorted(template["Parameters"])
    assert set(template["Parameters"]) <= mentions([template["Resources"], template["Conditions"], template["Globals"]])


def test_the_readme_names_every_parameter(template: dict[str, Any]) -> None:
    readme = Path(TEMPLATES / "README.md").read_text()
    assert not [name for name in template["Parameters"] if f"`{name}`" not in readme]
