"""The functions, opened as AWS opens them, on an emulator of SQS, S3 and DynamoDB, with the models that ship."""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from facewire.aws.clients import dynamodb_client, s3_client, sqs_client
from facewire.aws.provision import ensure_bucket, ensure_queue
from facewire.messages import RecognizedFaces
from facewire.queues.sqs import SqsQueue, SqsQueues
from facewire.stores import Result
from facewire.stores.dynamodb import DynamoDbResultStore, Table, ensure_table
from facewire_lambda.dead_letters import dead_letters
from facewire_lambda.emf import Metrics
from facewire_lambda.enroll import enroll
from facewire_lambda.function_url import detect
from facewire_lambda.ingest import ingest_detect, ingest_store
from facewire_lambda.request_queue import recognize
from facewire_lambda.runtime import Container, Handler
from facewire_lambda.settings import LambdaSettings
from lambda_events import function_url, object_created, sqs, text

HOPPER, COLLINS = "grace_hopper.jpg", "eileen_collins.jpg"
#: SQS hides a received message for 30 s; ours comes again after about a second.
SOON_SECONDS = 15


class Context:
    aws_request_id = "c6af9ac6-7b61-11e6-9a41-93e8deadbeef"


@dataclass
class Account:
    """Queues, a bucket and a table of their own, and the functions that are open there."""

    settings: LambdaSettings
    opened: ExitStack

    @property
    def bucket(self) -> str:
        return self.settings.bucket

    def function(self, handler: Handler) -> Callable[[dict[str, Any]], Any]:
        metrics = Metrics("test", write=lambda _: None)
        container = self.opened.enter_context(closing(Container(handler.open_function, self.settings, metrics)))
        return lambda event: container(event, Context())

    def put(self, key: str, content: bytes) -> dict[str, str]:
        async def put() -> None:
            async with s3_client(self.settings) as s3:
                await s3.put_object(Bucket=self.bucket, Key=key, Body=content)

        asyncio.run(put())
        return {"bucket": self.bucket, "key": key}

    def content(self, key: str) -> bytes:
        async def get() -> bytes:
            async with s3_client(self.settings) as s3:
                answer = await s3.get_object(Bucket=self.bucket, Key=key)
                async with answer["Body"] as body:
                    content: bytes = await body.read()
            return content

        return asyncio.run(get())

    def result(self, request_id: str) -> Result | None:
        async def get() -> Result | None:
            async with dynamodb_client(self.settings) as client:
                return await DynamoDbResultStore(Table(client, self.settings.required_table())).get(request_id)

        return asyncio.run(get())

    def receive(self, queue: str, *, wait: float = 5) -> dict[str, Any]:
        """Return the event with what is on the queue; it stays hidden from others."""

        async def receive() -> list[tuple[str, str, int]]:
            async with self.queue(queue) as opened:
                leases = await opened.receive(10, wait=wait)
            return [(lease.receipt, lease.body.decode(), lease.receives) for lease in leases]

        received = asyncio.run(receive())
        event = sqs(*(body for _, body, _ in received))
        for record, (receipt, _, receives) in zip(event["Records"], received, strict=True):
            record["receiptHandle"] = receipt
            record["attributes"]["ApproximateReceiveCount"] = str(receives)
        return event

    def answers(self) -> list[RecognizedFaces]:
        event = self.receive(self.settings.response_queues[0])
        return [RecognizedFaces.from_bytes(record["body"].encode()) for record in event["Records"]]

    @asynccontextmanager
    async def queue(self, name: str) -> AsyncIterator[SqsQueue]:
        async with SqsQueues.open(self.settings) as queues:
            yield queues.queue(name)


@pytest.fixture
def account(aws_environment: str) -> Iterator[Account]:
    name = f"lambda-{secrets.token_hex(4)}"
    settings = LambdaSettings(
        aws_endpoint_url=aws_environment,
        request_queue=f"{name}-requests",
        response_queues=(f"{name}-responses",),
        bucket=name,
        table=name,
        min_face_size=60,
    )
    asyncio.run(provide(settings, name))
    with ExitStack() as opened:
        yield Account(settings, opened)


async def provide(settings: LambdaSettings, name: str) -> None:
    async with sqs_client(settings) as queues, s3_client(settings) as s3, dynamodb_client(settings) as tables:
        await ensure_queue(queues, settings.request_queue)
        await ensure_queue(queues, settings.response_queues[0])
        await ensure_bucket(s3, name, settings.region)
        await ensure_table(tables, name)


def frame(samples: Path, file: str, request_id: str) -> dict[str, Any]:
    content = text((samples / file).read_bytes())
    return function_url(json.dumps({"request_id": request_id, "filename": file, "content": content}))


def test_a_posted_frame_is_named_over_both_queues(account: Account, samples: Path) -> None:
    enroll_function, detect_function = account.function(enroll), account.function(detect)
    account.put("enroll/Grace Hopper/1.jpg", (samples / HOPPER).read_bytes())
    [outcome] = enroll_function(object_created(account.bucket, "enroll/Grace Hopper/1.jpg"))
    assert outcome["face_id"]
    for request_id, file in (("r1", HOPPER), ("r2", COLLINS)):
        assert detect_function(frame(samples, file, request_id))["statusCode"] == 200
    event = account.receive(account.settings.request_queue)
    assert account.function(recognize)(event) == {"batchItemFailures": []}
    assert {answer.request_id: answer.result for answer in account.answers()} == {"r1": "Grace Hopper", "r2": "Unknown"}


def test_a_message_that_failed_comes_again_soon(account: Account, samples: Path) -> None:
    account.function(detect)(frame(samples, HOPPER, "r1"))
    event = account.receive(account.settings.request_queue)
    broken = account.settings.model_copy(update={"response_queues": ("there-is-no-such-queue",)})
    result = Account(broken, account.opened).function(recognize)(event)
    assert result == {"batchItemFailures": [{"itemIdentifier": "m0"}]}
    again = account.receive(account.settings.request_queue, wait=SOON_SECONDS)
    assert again["Records"][0]["attributes"]["ApproximateReceiveCount"] == "2"
    assert account.function(recognize)(again) == {"batchItemFailures": []}
    assert [answer.request_id for answer in account.answers()] == ["r1"]


def test_what_was_given_up_is_recorded_and_answered_once(account: Account, samples: Path) -> None:
    account.function(detect)(frame(samples, HOPPER, "r1"))
    event = account.receive(account.settings.request_queue)
    event["Records"][0]["attributes"]["ApproximateReceiveCount"] = "5"
    broken = account.settings.model_copy(update={"response_queues": ("there-is-no-such-queue",)})
    assert Account(broken, account.opened).function(recognize)(event) == {"batchItemFailures": []}
    dead = account.receive(f"{account.settings.request_queue}-dead")
    given_up = account.function(dead_letters)
    assert given_up(dead) == given_up(dead) == {"batchItemFailures": []}
    [answer] = account.answers()
    assert answer.error is not None
    assert (answer.request_id, answer.error.stage, answer.error.code) == ("r1", "queue", "no_such_queue")
    result = account.result("r1")
    assert result is not None
    assert (result.status, result.answer) == ("failed", answer)


def test_a_picture_in_the_bucket_becomes_a_row_and_an_object(account: Account, samples: Path) -> None:
    account.put("enroll/Grace Hopper/1.jpg", (samples / HOPPER).read_bytes())
    account.function(enroll)({"bucket": account.bucket, "key": "enroll/Grace Hopper/1.jpg"})
    event = account.put("input/door/été 1+1.jpg", (samples / HOPPER).read_bytes())
    answer = account.function(ingest_detect)(event)
    stored = account.function(ingest_store)({**event, "answer": answer})
    line = json.loads(account.content(stored["processed"]))
    assert (line["image_id"], line["camera"], line["result"]) == (stored["request_id"], "door", "Grace Hopper")
    result = account.result(stored["request_id"])
    assert result is not None
    assert (result.status, result.camera) == ("done", "door")


def test_a_broken_picture_ends_as_a_recorded_failure(account: Account) -> None:
    event = account.put("input/broken.jpg", b"\xff\xd8\xff broken")
    with pytest.raises(Exception, match="decode: ") as raised:
        account.function(ingest_detect)(event)
    cause = json.dumps({"errorMessage": str(raised.value), "errorType": raised.type.__name__, "stackTrace": []})
    caught = {"Error": raised.type.__name__, "Cause": cause}
    stored = account.function(ingest_store)({**event, "error": caught})
    result = account.result(stored["request_id"])
    assert result is not None
    assert result.answer is not None
    assert result.answer.error is not None
    assert (result.status, result.answer.error.stage) == ("failed", "decode")
    assert json.loads(account.content(stored["processed"]))["error"]["stage"] == "decode"
