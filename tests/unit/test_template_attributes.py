"""deploy/aws/template.yaml: attributes are guessed by every function that names faces, and only where asked for."""

from typing import Any

from aws_stack import read_template

NAMING = {"RecognizeFunction", "IngestDetectFunction"}


def told(function: dict[str, Any]) -> Any:
    return function["Properties"].get("Environment", {}).get("Variables", {}).get("FACEWIRE_ATTRIBUTES")


def test_the_functions_that_name_faces_guess_attributes_where_asked() -> None:
    template = read_template("template.yaml")
    assert template["Parameters"]["Attributes"]["Default"] == "false"
    functions = {k: v for k, v in template["Resources"].items() if v["Type"] == "AWS::Serverless::Function"}
    assert {name for name, function in functions.items() if told(function) == {"Ref": "Attributes"}} == NAMING


def test_the_throughput_tier_which_has_no_model_for_them_is_refused() -> None:
    rule = read_template("template.yaml")["Rules"]["AttributesByFunctions"]
    assert rule["RuleCondition"] == {"Fn::Equals": [{"Ref": "Attributes"}, "true"]}
    assert [found["Assert"] for found in rule["Assertions"]] == [{"Fn::Equals": [{"Ref": "Recognizer"}, "lambda"]}]
