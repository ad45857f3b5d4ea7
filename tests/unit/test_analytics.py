"""deploy/aws/analytics.yaml beside the rest of the stack: what is kept can be asked for."""

import re
from typing import Any

from aws_stack import read_template


def test_the_table_goes_back_as_far_as_objects_are_kept() -> None:
    table: dict[str, Any] = read_template("analytics.yaml")["Resources"]["ProcessedTable"]["Properties"]["TableInput"]
    found = re.fullmatch(r"NOW-(\d+)YEARS,NOW\+1DAYS", table["Parameters"]["projection.day.range"])
    assert found is not None
    assert int(found[1]) * 365 >= read_template("template.yaml")["Parameters"]["ProcessedDays"]["MaxValue"]
