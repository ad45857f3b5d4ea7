"""What Facewire needs to find in AWS: queues with their dead letters, a bucket and, where chosen, a table or two.

Making it twice changes nothing, and whatever is there already stays as it is.
"""

import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from facewire.adapters.aws.clients import dynamodb_client, s3_client, sqs_client
from facewire.adapters.aws.dynamodb.schema import ensure_table, indexes_of
from facewire.adapters.aws.errors import AWS_ERRORS, aws_errors_as, error_code
from facewire.domain.errors import QueueError, StoreError
from facewire.domain.messages import MAX_MESSAGE_BYTES
from facewire.runtime.settings import AwsSettings, StoreSettings

if TYPE_CHECKING:
    from types_aiobotocore_s3 import S3Client
    from types_aiobotocore_s3.literals import BucketLocationConstraintType
    from types_aiobotocore_sqs import SQSClient
    from types_aiobotocore_sqs.literals import QueueAttributeNameType

_log = structlog.get_logger()

#: The dead letters of a queue are a queue of this name behind its own.
DEAD_SUFFIX = "-dead"
#: Our workers dead-letter a message on its fifth receive; SQS's own count catches those that crash every worker.
NATIVE_MAX_RECEIVES = 10
#: A lease where the receiver names no other.
LEASE_SECONDS = 30
#: A message waits four days, SQS's default. Its age goes on counting among the dead letters: 14 days, SQS's longest.
RETENTION_SECONDS = 4 * 86_400
DEAD_RETENTION_SECONDS = 14 * 86_400
#: SQS's largest (1 MiB). It was 256 KiB until August 2025: queues made before, or so by hand, refuse larger messages.
LARGEST_MESSAGE_BYTES = 1_048_576
#: The region whose name S3 does not take as a bucket's location.
_FIRST_REGION = "us-east-1"


@dataclass(frozen=True, slots=True)
class Ensured:
    """A queue, table or bucket that is there now, and whether it had to be made."""

    kind: str
    name: str
    made: bool


def queue_name(name_or_url: str) -> str:
    """Return the name of a queue that is given by its name or its URL."""
    return name_or_url.rstrip("/").rpartition("/")[2]


async def ensure_all(settings: StoreSettings) -> AsyncIterator[Ensured]:
    """Make what is missing, one thing after the other. QueueError or StoreError where AWS does not let us."""
    async with sqs_client(settings) as sqs:
        for queue in await ensure_queues(sqs, settings):
            yield queue
    if settings.store == "dynamodb":
        async with dynamodb_client(settings) as dynamodb:
            for name in dict.fromkeys((settings.table, settings.table_of_gallery)):
                made = await ensure_table(dynamodb, name, indexes=indexes_of(name, results=settings.table))
                yield Ensured("table", name, made)
    async with s3_client(settings) as s3:
        yield await ensure_bucket(s3, settings.bucket, settings.region)


async def ensure_queues(client: "SQSClient", settings: AwsSettings) -> list[Ensured]:
    """Make the request and the response queue with their dead letters; QueueError where that fails."""
    names = dict.fromkeys(queue_name(name) for name in (settings.request_queue, settings.response_queue))
    return [ensured for name in names for ensured in await ensure_queue(client, name)]


async def ensure_queue(client: "SQSClient", name: str) -> Sequence[Ensured]:
    """Make the queue and its dead letters, each unless it is there; QueueError where that fails.

    A queue that is there without a redrive policy gets one; one that takes only smaller messages than ours is logged.
    """
    dead = name + DEAD_SUFFIX
    with aws_errors_as(QueueError):
        dead_url = await _queue_url(client, dead)
        url = await _queue_url(client, name)
        dead_made = dead_url is None
        if dead_url is None:
            dead_url = await _create(client, dead, {"MessageRetentionPeriod": str(DEAD_RETENTION_SECONDS)})
        else:
            await _check_size(client, dead, dead_url)
        policy = await _redrive_policy(client, dead_url)
        if url is None:
            await _create(client, name, {"MessageRetentionPeriod": str(RETENTION_SECONDS), "RedrivePolicy": policy})
        else:
            await _add_policy(client, url, policy)
            await _check_size(client, name, url)
    return [Ensured("queue", name, url is None), Ensured("queue", dead, dead_made)]


async def ensure_bucket(client: "S3Client", name: str, region: str) -> Ensured:
    """Make the bucket, closed to the public, unless it is there; StoreError where that fails."""
    with aws_errors_as(StoreError):
        if await _has_bucket(client, name):
            return Ensured("bucket", name, made=False)
        if region == _FIRST_REGION:
            await client.create_bucket(Bucket=name)
        else:
            location: BucketLocationConstraintType = region  # type: ignore[assignment] # a setting, any string
            await client.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": location})
        await client.put_public_access_block(
            Bucket=name,
            PublicAccessBlockConfiguration={
                "BlockPublicAcls": True,
                "IgnorePublicAcls": True,
                "BlockPublicPolicy": True,
                "RestrictPublicBuckets": True,
            },
        )
    return Ensured("bucket", name, made=True)


async def _queue_url(client: "SQSClient", name: str) -> str | None:
    try:
        return (await client.get_queue_url(QueueName=name))["QueueUrl"]
    except AWS_ERRORS as error:
        if error_code(error) in {"NonExistentQueue", "QueueDoesNotExist"}:
            return None
        raise


async def _create(client: "SQSClient", name: str, attributes: "dict[QueueAttributeNameType, str]") -> str:
    every: dict[QueueAttributeNameType, str] = {
        "VisibilityTimeout": str(LEASE_SECONDS),
        "MaximumMessageSize": str(LARGEST_MESSAGE_BYTES),
        "SqsManagedSseEnabled": "true",
    }
    return (await client.create_queue(QueueName=name, Attributes={**every, **attributes}))["QueueUrl"]


async def _redrive_policy(client: "SQSClient", dead_url: str) -> str:
    answer = await client.get_queue_attributes(QueueUrl=dead_url, AttributeNames=["QueueArn"])
    target = answer["Attributes"]["QueueArn"]
    return json.dumps({"deadLetterTargetArn": target, "maxReceiveCount": NATIVE_MAX_RECEIVES})


async def _add_policy(client: "SQSClient", url: str, policy: str) -> None:
    present = await client.get_queue_attributes(QueueUrl=url, AttributeNames=["RedrivePolicy"])
    if "RedrivePolicy" not in present.get("Attributes", {}):
        await client.set_queue_attributes(QueueUrl=url, Attributes={"RedrivePolicy": policy})


async def _check_size(client: "SQSClient", name: str, url: str) -> None:
    """Log a queue that refuses messages as large as ours."""
    found = await client.get_queue_attributes(QueueUrl=url, AttributeNames=["MaximumMessageSize"])
    limit = int(found.get("Attributes", {}).get("MaximumMessageSize", LARGEST_MESSAGE_BYTES))
    if limit < MAX_MESSAGE_BYTES:
        advice = f"set its MaximumMessageSize to {LARGEST_MESSAGE_BYTES}, or frames with many faces fail"
        _log.warning("a queue takes small messages only", queue=name, limit=limit, advice=advice)


async def _has_bucket(client: "S3Client", name: str) -> bool:
    try:
        await client.head_bucket(Bucket=name)
    except AWS_ERRORS as error:
        code = error_code(error)
        if code in {"403", "Forbidden"}:
            detail = f"the bucket {name!r} is somebody else's: choose another name in FACEWIRE_BUCKET"
            raise StoreError("bucket_taken", detail) from error
        if code in {"404", "NotFound", "NoSuchBucket"}:
            return False
        raise
    return True
