"""A place of its own on the emulator of AWS for functions: queues with their dead letters, a bucket, tables."""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from facewire.adapters.aws.clients import dynamodb_client, s3_client, sqs_client
from facewire.adapters.aws.dynamodb.results import DynamoDbResultStore
from facewire.adapters.aws.dynamodb.schema import ensure_table, indexes_of
from facewire.adapters.aws.dynamodb.table import Table
from facewire.adapters.aws.provision import ensure_bucket, ensure_queue
from facewire.adapters.aws.sqs.queue import SqsQueue, SqsQueues
from facewire.domain.messages import RecognizedFaces
from facewire.domain.ports import Result
from facewire_lambda.emf import Metrics
from facewire_lambda.runtime import Container, Handler
from facewire_lambda.settings import LambdaSettings
from lambda_events import function_url, sqs, text


class Context:
    aws_request_id = "c6af9ac6-7b61-11e6-9a41-93e8deadbeef"


@dataclass
class Account:
    """Queues, a bucket and tables of their own, and the functions that are open there."""

    settings: LambdaSettings
    opened: ExitStack

    @property
    def bucket(self) -> str:
        return self.settings.bucket

    @property
    def environment(self) -> dict[str, str]:
        """What functions in a process of their own are told."""
        return {
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "FACEWIRE_REGION": self.settings.region,
            "FACEWIRE_AWS_ENDPOINT_URL": str(self.settings.aws_endpoint_url),
            "FACEWIRE_REQUEST_QUEUE": self.settings.request_queue,
            "FACEWIRE_RESPONSE_QUEUE": self.settings.response_queues[0],
            "FACEWIRE_TABLE": self.settings.required_table(),
            "FACEWIRE_GALLERY_TABLE": self.settings.required_gallery(),
            "FACEWIRE_MIN_FACE_SIZE": str(self.settings.min_face_size),
        }

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


def new_account(endpoint: str) -> LambdaSettings:
    """Make what functions need; return the settings that name it."""
    name = f"lambda-{secrets.token_hex(4)}"
    settings = LambdaSettings(
        aws_endpoint_url=endpoint,
        request_queue=f"{name}-requests",
        response_queues=(f"{name}-responses",),
        bucket=name,
        table=name,
        gallery_table=f"{name}-gallery",
        min_face_size=60,
    )
    asyncio.run(provide(settings, name))
    return settings


async def provide(settings: LambdaSettings, name: str) -> None:
    async with sqs_client(settings) as queues, s3_client(settings) as s3, dynamodb_client(settings) as tables:
        await ensure_queue(queues, settings.request_queue)
        await ensure_queue(queues, settings.response_queues[0])
        await ensure_bucket(s3, name, settings.region)
        for table in (settings.required_table(), settings.required_gallery()):
            await ensure_table(tables, table, indexes=indexes_of(table, results=settings.table))


def frame(samples: Path, file: str, request_id: str) -> dict[str, Any]:
    """Return the request that POSTs a sample picture."""
    content = text((samples / file).read_bytes())
    return function_url(json.dumps({"request_id": request_id, "filename": file, "content": content}))
