"""deploy/aws/analytics.yaml beside the rest of the stack: what is kept can be asked for."""

import json
import re
from typing import Any

from aws_stack import TEMPLATES, read_template


def test_the_table_goes_back_as_far_as_objects_are_kept() -> None:
    table: dict[str, Any] = read_template("analytics.yaml")["Resources"]["ProcessedTable"]["Properties"]["TableInput"]
    found = re.fullmatch(r"NOW-(\d+)YEARS,NOW\+1DAYS", table["Parameters"]["projection.day.range"])
    assert found is not None
    assert int(found[1]) * 365 >= read_template("template.yaml")["Parameters"]["ProcessedDays"]["MaxValue"]


def test_what_reads_the_objects_finds_its_columns_by_their_names() -> None:
    """It is the Hive SerDe, as Athena's guide advises, and names are in small letters."""
    table: dict[str, Any] = read_template("analytics.yaml")["Resources"]["ProcessedTable"]["Properties"]["TableInput"]
    serde = table["StorageDescriptor"]["SerdeInfo"]
    assert serde == {"SerializationLibrary": "org.apache.hive.hcatalog.data.JsonSerDe"}
    columns = table["StorageDescriptor"]["Columns"]
    assert all(re.fullmatch(r"[a-z0-9_]+", column["Name"]) for column in columns)
    assert not re.search(r"[A-Z]", json.dumps([column["Type"] for column in columns]))


def test_whoever_asks_sees_no_pictures() -> None:
    policy = read_template("analytics.yaml")["Resources"]["QueryPolicy"]["Properties"]["PolicyDocument"]
    objects = [statement for statement in policy["Statement"] if "s3:GetObject" in statement["Action"]]
    folders = {statement["Resource"]["Fn::Sub"].partition("${Bucket}/")[2] for statement in objects}
    (listed,) = [statement for statement in policy["Statement"] if statement["Action"] == "s3:ListBucket"]
    assert folders == set(listed["Condition"]["StringLike"]["s3:prefix"]) == {"processed/*", "athena/*"}


def test_the_readme_asks_for_what_the_stack_makes() -> None:
    readme = (TEMPLATES / "athena" / "README.md").read_text()
    (database,) = re.findall(r"--query-execution-context Database=(\w+)", readme)
    assert database == read_template("template.yaml")["Parameters"]["AnalyticsDatabase"]["Default"]
    (query,) = re.findall(r"--query-string file://deploy/aws/(\S+)", readme)
    assert (TEMPLATES / query).is_file()
    limit = read_template("analytics.yaml")["Resources"]["WorkGroup"]["Properties"]["WorkGroupConfiguration"]
    assert f"{limit['BytesScannedCutoffPerQuery'] // 1024**3} GiB" in readme.replace("\n", " ")


def test_the_policy_is_an_output_of_the_stack() -> None:
    assert read_template("analytics.yaml")["Outputs"]["QueryPolicyArn"]["Value"] == {"Ref": "QueryPolicy"}
    output = read_template("template.yaml")["Outputs"]["QueryPolicyArn"]["Value"]
    assert output == {"Fn::GetAtt": ["Analytics", "Outputs.QueryPolicyArn"]}
