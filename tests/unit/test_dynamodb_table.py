"""What the table does where DynamoDB throttles, answers late or cancels."""

from typing import Any

import pytest
from botocore.exceptions import ClientError  # type: ignore[import-untyped]

from facewire.adapters.aws.dynamodb.items import Key, Write
from facewire.adapters.aws.dynamodb.table import Table, together
from facewire.domain.errors import StoreError

KEYS = [Key("gallery", str(number)) for number in range(130)]


class FakeDynamoDb:
    """DynamoDB as a client sees it, where it does only `half` of what a batch asks for as long as that lasts."""

    def __init__(self, *, throttled: int = 0, failure: Exception | None = None) -> None:
        self.items = {key.sk: {"pk": {"S": key.pk}, "sk": {"S": key.sk}} for key in KEYS}
        self.throttled = throttled
        self.failure = failure
        self.calls = 0

    async def batch_get_item(self, RequestItems: dict[str, Any]) -> dict[str, Any]:  # noqa: N803
        ((table, request),) = RequestItems.items()
        assert request["ConsistentRead"]
        done, left = self._split(request["Keys"])
        found = [self.items[key["sk"]["S"]] for key in done if key["sk"]["S"] in self.items]
        return {"Responses": {table: found}, "UnprocessedKeys": {table: {**request, "Keys": left}} if left else {}}

    async def transact_write_items(self, TransactItems: list[Any]) -> None:  # noqa: ARG002, N803
        self._split([])

    async def get_item(self, **request: Any) -> dict[str, Any]:  # noqa: ARG002
        self._split([])
        return {}

    def _split(self, parts: list[Any]) -> tuple[list[Any], list[Any]]:
        self.calls += 1
        if self.failure is not None:
            raise self.failure
        if self.throttled == 0:
            return parts, []
        self.throttled -= 1
        half = len(parts) // 2
        return parts[:half], parts[half:]


def table(client: FakeDynamoDb) -> Table:
    return Table(client, "facewire")  # type: ignore[arg-type] # stands in for the client of DynamoDB


def refusal(code: str, *, status: int = 400, **response: Any) -> Exception:
    described = {"Error": {"Code": code, "Message": code}, "ResponseMetadata": {"HTTPStatusCode": status}, **response}
    error: Exception = ClientError(described, "PutItem")
    return error


def cancelled(*codes: str) -> Exception:
    return refusal("TransactionCanceledException", CancellationReasons=[{"Code": code} for code in codes])


async def test_what_a_batch_leaves_is_asked_for_again() -> None:
    assert (await table(FakeDynamoDb(throttled=3)).get_many(KEYS)).keys() == set(KEYS)


async def test_a_batch_that_stays_undone_is_given_up() -> None:
    impatient = Table(FakeDynamoDb(throttled=1000), "facewire", patience_seconds=0.0)  # type: ignore[arg-type] # as a client
    with pytest.raises(StoreError, match=r"unavailable.*throttles"):
        await impatient.get_many(KEYS[:1])


async def test_nothing_is_asked_for_nothing() -> None:
    client = FakeDynamoDb()
    assert await table(client).get_many([]) == {}
    assert client.calls == 0


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (refusal("ProvisionedThroughputExceededException"), "unavailable"),
        (refusal("ThrottlingException"), "unavailable"),
        (refusal("InternalServerError", status=500), "unavailable"),
        (refusal("AccessDeniedException"), "refused"),
        (refusal("ResourceNotFoundException"), "no_such_table"),
    ],
)
async def test_a_refusal_is_told_by_what_can_be_done(failure: Exception, code: str) -> None:
    with pytest.raises(StoreError) as caught:
        await table(FakeDynamoDb(failure=failure)).get(KEYS[0])
    assert caught.value.code == code


@pytest.mark.parametrize(
    "failure",
    [
        cancelled("None", "ConditionalCheckFailed"),
        cancelled("TransactionConflict", "None"),
        refusal("TransactionInProgressException"),
    ],
)
async def test_a_transaction_in_which_others_were_faster_is_not_done(failure: Exception) -> None:
    assert await table(FakeDynamoDb(failure=failure)).write([Write.delete(key) for key in KEYS[:2]]) is False


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (cancelled("None", "ThrottlingError"), "unavailable"),
        (cancelled("ProvisionedThroughputExceeded", "TransactionConflict"), "unavailable"),
        (cancelled("ValidationError"), "refused"),
    ],
)
async def test_a_transaction_that_cannot_be_done_fails(failure: Exception, code: str) -> None:
    with pytest.raises(StoreError) as caught:
        await table(FakeDynamoDb(failure=failure)).write([Write.delete(key) for key in KEYS[:2]])
    assert caught.value.code == code


async def test_the_first_failure_of_works_together_comes_out_as_it_is() -> None:
    async def work(number: int) -> int:
        if number == 20:
            raise StoreError("unreachable", "no answer")
        return number

    assert await together(work, range(20)) == list(range(20))
    with pytest.raises(StoreError, match="unreachable"):
        await together(work, range(50))


def test_every_name_and_value_of_an_expression_is_given() -> None:
    write = Write.update(KEYS[0], "SET #a = :b", condition="#c = :d", values={"b": b"1", "d": ["x", "y"]})
    assert write.request == {
        "Key": {"pk": {"S": "gallery"}, "sk": {"S": "0"}},
        "UpdateExpression": "SET #a = :b",
        "ConditionExpression": "#c = :d",
        "ExpressionAttributeNames": {"#a": "a", "#c": "c"},
        "ExpressionAttributeValues": {":b": {"B": b"1"}, ":d": {"L": [{"S": "x"}, {"S": "y"}]}},
    }
