"""Items of a DynamoDB table as plain values, and in the form in which its API takes and gives them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

Value = str | bytes | int | Sequence[str]
#: An item by attribute; None is left out when it is written.
Item = Mapping[str, Any]


class Key(NamedTuple):
    """What names one item of the table."""

    pk: str
    sk: str

    @classmethod
    def of(cls, item: Item) -> "Key":
        """Return the key of the item."""
        return cls(item["pk"], item["sk"])

    def attributes(self) -> dict[str, Any]:
        """Return the key in the form of the API."""
        return {"pk": {"S": self.pk}, "sk": {"S": self.sk}}


@dataclass(frozen=True, slots=True)
class Write:
    """One part of a transaction."""

    kind: str
    request: Mapping[str, Any]

    @property
    def size(self) -> int:
        """About how many bytes the item has that is put; 0 for other writes."""
        return sum(len(value) for attribute in self.request.get("Item", {}).values() for value in attribute.values())

    @classmethod
    def put(cls, item: Item, *, condition: str | None = None) -> "Write":
        """Put the item."""
        return cls("Put", {"Item": attributes(item), **expressions({}, ConditionExpression=condition)})

    @classmethod
    def update(cls, key: Key, update: str, *, values: Mapping[str, Value], condition: str | None = None) -> "Write":
        """Change the item."""
        request = expressions(values, UpdateExpression=update, ConditionExpression=condition)
        return cls("Update", {"Key": key.attributes(), **request})

    @classmethod
    def delete(cls, key: Key, *, condition: str | None = None, values: Mapping[str, Value] | None = None) -> "Write":
        """Delete the item."""
        request = expressions(values or {}, ConditionExpression=condition)
        return cls("Delete", {"Key": key.attributes(), **request})


def expressions(values: Mapping[str, Value], **expressions: str | None) -> dict[str, Any]:
    """Return the expressions with what their `#name` and `:value` stand for."""
    request: dict[str, Any] = {kind: text for kind, text in expressions.items() if text is not None}
    names = {name for text in request.values() for name in re.findall(r"#(\w+)", text)}
    if names:
        request["ExpressionAttributeNames"] = {f"#{name}": name for name in sorted(names)}
    if values:
        request["ExpressionAttributeValues"] = {f":{name}": _attribute(value) for name, value in values.items()}
    return request


def attributes(item: Item) -> dict[str, Any]:
    """Return the item in the form of the API."""
    return {name: _attribute(value) for name, value in item.items() if value is not None}


def _attribute(value: Value) -> dict[str, Any]:
    if isinstance(value, str):
        return {"S": value}
    if isinstance(value, bytes):
        return {"B": value}
    if isinstance(value, int):
        return {"N": str(value)}
    return {"L": [{"S": part} for part in value]}


def item_of(attributes: Mapping[str, Any]) -> Item:
    """Return the item that the API gave."""
    return {name: _value(attribute) for name, attribute in attributes.items()}


def _value(attribute: Mapping[str, Any]) -> Value:
    ((kind, value),) = attribute.items()
    if kind == "N":
        return int(value)
    if kind == "L":
        return [str(part["S"]) for part in value]
    return value if kind == "B" else str(value)
