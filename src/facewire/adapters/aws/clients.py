"""Clients of AWS, or of what stands in for it: opened once for each role and shared by everything in that role.

aiobotocore from 3.10.0 on makes one connection pool for each client, however many calls come first (its issue 1695).
"""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any

from aiobotocore.config import AioConfig  # type: ignore[import-untyped]

from facewire.adapters.aws.credentials import aws_session
from facewire.runtime.settings import AwsSettings

if TYPE_CHECKING:
    from types_aiobotocore_dynamodb import DynamoDBClient
    from types_aiobotocore_s3 import S3Client
    from types_aiobotocore_sqs import SQSClient

#: SQS holds a receive that finds nothing for at most this long (WaitTimeSeconds).
LONGEST_POLL_SECONDS = 20
_CONNECT_SECONDS = 5
_READ_SECONDS = 10
#: Longer than a poll, shorter than a lease of 30 s: a poll whose answer is lost fails before its messages come back.
_POLL_READ_SECONDS = 25
_CONNECTIONS = 50
_POLL_CONNECTIONS = 10
#: A call is tried this often, with growing pauses, where AWS is out of reach, overloaded or throttles.
_ATTEMPTS = 3


@asynccontextmanager
async def sqs_client(settings: AwsSettings) -> AsyncIterator["SQSClient"]:
    """Open a client for the short calls to SQS."""
    async with _client("sqs", settings) as client:
        yield client


@asynccontextmanager
async def sqs_poll_client(settings: AwsSettings) -> AsyncIterator["SQSClient"]:
    """Open a client for long polls of SQS, ten at a time; in a pool of their own they keep nothing else waiting."""
    polls = {"read_timeout": _POLL_READ_SECONDS, "max_pool_connections": _POLL_CONNECTIONS, "tcp_keepalive": True}
    async with _client("sqs", settings, **polls) as client:
        yield client


@asynccontextmanager
async def dynamodb_client(settings: AwsSettings) -> AsyncIterator["DynamoDBClient"]:
    """Open a client of DynamoDB."""
    async with _client("dynamodb", settings) as client:
        yield client


@asynccontextmanager
async def s3_client(settings: AwsSettings) -> AsyncIterator["S3Client"]:
    """Open a client of S3; at an endpoint of one's own the bucket goes into the path, as few names there resolve."""
    style = "auto" if settings.aws_endpoint_url is None else "path"
    async with _client("s3", settings, s3={"addressing_style": style}) as client:
        yield client


def _client(service: str, settings: AwsSettings, **options: Any) -> AbstractAsyncContextManager[Any]:
    defaults: dict[str, Any] = {
        "connect_timeout": _CONNECT_SECONDS,
        "read_timeout": _READ_SECONDS,
        "max_pool_connections": _CONNECTIONS,
        "retries": {"mode": "standard", "total_max_attempts": _ATTEMPTS},
    }
    context: AbstractAsyncContextManager[Any] = aws_session().create_client(
        service,
        region_name=settings.region,
        endpoint_url=settings.aws_endpoint_url,
        config=AioConfig(**{**defaults, **options}),
    )
    return context
