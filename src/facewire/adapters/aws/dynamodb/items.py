"""Items of a DynamoDB table as plain values, and the writes that a change is made of."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

#: An item by attribute; None is left out when it is written.
Item = Mapping[str, Any]
#: Seconds since 1970 after which DynamoDB deletes an item; it takes up to a few days to do so.
TTL = "expires_at"
#: DynamoDB takes 38 digits and 125 powers of ten; no number of ours needs more than this.
_DECIMALS, _LARGEST = 6, 1e100


class Key(NamedTuple):
    """What names one item of the table."""

    pk: str
    sk: str

    @classmethod
    def of(cls, item: Item) -> "Key":
        """Return the key of the item."""
        return cls(item["pk"], item["sk"])


@dataclass(frozen=True, slots=True)
class Write:
    """One part of a change: `kind` is `Put`, `Update`, `Delete` or `ConditionCheck`, `request` is the API's."""

    kind: str
    request: Mapping[str, Any]

    @property
    def key(self) -> str:
        """What tells the item from all others."""
        target = self.request.get("Key") or self.request["Item"]
        return f"{target['pk']['S']}\n{target['sk']['S']}"

    @property
    def size(self) -> int:
        """About how many bytes the item has that is put; 0 for other writes."""
        values = [value for attribute in self.request.get("Item", {}).values() for value in attribute.values()]
        return sum(len(value) for value in values if isinstance(value, (str, bytes)))

    @classmethod
    def put(cls, item: Item, *, condition: str | None = None, values: Item | None = None) -> "Write":
        """Put the item."""
        return cls("Put", {"Item": attributes(item), **expressions(values or {}, ConditionExpression=condition)})

    @classmethod
    def update(cls, key: Key, update: str, *, values: Item, condition: str | None = None) -> "Write":
        """Change the item."""
        request = expressions(values, UpdateExpression=update, ConditionExpression=condition)
        return cls("Update", {"Key": attributes(key._asdict()), **request})

    @classmethod
    def delete(cls, key: Key, *, condition: str | None = None, values: Item | None = None) -> "Write":
        """Delete the item."""
        request = expressions(values or {}, ConditionExpression=condition)
        return cls("Delete", {"Key": attributes(key._asdict()), **request})

    @classmethod
    def check(cls, key: Key, condition: str, values: Item) -> "Write":
        """Write nothing, and let nothing else be written unless the item fulfils the condition."""
        request = expressions(values, ConditionExpression=condition)
        return cls("ConditionCheck", {"Key": attributes(key._asdict()), **request})


def expressions(values: Item, **expressions: str | None) -> dict[str, Any]:
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


def item_of(attributes: Mapping[str, Any]) -> Item:
    """Return the item that the API gave."""
    return {name: _value(attribute) for name, attribute in attributes.items()}


def ttl(moment: datetime) -> int:
    """Return the TTL that ends at that moment."""
    return int(moment.timestamp())


def _attribute(value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        return {"S": value}
    if isinstance(value, bytes):
        return {"B": value}
    if isinstance(value, float):
        return {"N": str(round(value, _DECIMALS))} if abs(value) < _LARGEST else {"NULL": True}
    if isinstance(value, int):
        return {"N": str(value)}
    if isinstance(value, Mapping):
        return {"M": attributes(value)}
    if isinstance(value, Sequence):
        return {"L": [_attribute(part) for part in value]}
    message = f"DynamoDB has no type for a {type(value).__name__}"
    raise TypeError(message)


def _value(attribute: Mapping[str, Any]) -> Any:
    ((kind, value),) = attribute.items()
    if kind == "N":
        return int(value) if value.lstrip("-").isdigit() else float(value)
    if kind == "M":
        return item_of(value)
    if kind == "L":
        return [_value(part) for part in value]
    return None if kind == "NULL" else value
