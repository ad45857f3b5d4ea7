"""`facewire aws init`: what it makes, that it makes it once, and what it says where it cannot."""

import asyncio
import json
import os
import subprocess
import sys
from uuid import uuid4

import pytest
from structlog.testing import capture_logs

from aws_emulator import free_port
from facewire.adapters.aws.clients import dynamodb_client, s3_client, sqs_client
from facewire.adapters.aws.provision import ensure_bucket, ensure_queue
from facewire.domain.errors import FacewireError
from facewire.runtime.settings import AwsSettings, StoreSettings
from facewire_standalone.commands.aws import init_aws

#: What the command may not need: the one-shot container that runs it has none of these.
HEAVY = ["numpy", "onnxruntime", "cv2", "PIL", "fastapi", "aiomqtt", "httpx", "prometheus_client"]


@pytest.fixture
def settings(aws_environment: str) -> StoreSettings:
    mark = uuid4().hex
    return StoreSettings(
        aws_endpoint_url=aws_environment,
        request_queue=f"{mark}-requests",
        response_queue=f"{mark}-responses",
        bucket=f"b-{mark}",
    )


async def init(settings: StoreSettings, wait_seconds: float = 5.0) -> list[str]:
    lines: list[str] = []
    await init_aws(settings, wait_seconds=wait_seconds, write=lines.append)
    return lines


async def test_makes_everything_once_and_says_so(settings: StoreSettings) -> None:
    first, second = await init(settings), await init(settings)
    things = [
        f"queue {settings.request_queue}",
        f"queue {settings.request_queue}-dead",
        f"queue {settings.response_queue}",
        f"queue {settings.response_queue}-dead",
        f"bucket {settings.bucket}",
    ]
    assert first == [f"{thing}: made" for thing in things]
    assert second == [f"{thing}: was there" for thing in things]


async def test_makes_the_table_where_results_are_kept_in_dynamodb(settings: StoreSettings) -> None:
    with_table = settings.model_copy(update={"store": "dynamodb", "table": f"t-{uuid4().hex}"})
    assert f"table {with_table.table}: made" in await init(with_table)
    assert f"table {with_table.table}: was there" in await init(with_table)


async def test_makes_a_second_table_where_the_gallery_has_one_of_its_own(settings: StoreSettings) -> None:
    names = {"table": f"t-{uuid4().hex}", "gallery_table": f"g-{uuid4().hex}"}
    with_tables = settings.model_copy(update={"store": "dynamodb", **names})
    tables = [line for line in await init(with_tables) if line.startswith("table")]
    assert tables == [f"table {name}: made" for name in names.values()]
    async with dynamodb_client(with_tables) as client:
        gallery = (await client.describe_table(TableName=names["gallery_table"]))["Table"]
    assert not gallery.get("GlobalSecondaryIndexes")
    assert [line for line in await init(with_tables) if line.startswith("table")] == [
        f"table {name}: was there" for name in names.values()
    ]


async def test_a_message_that_crashes_every_worker_ends_among_the_dead_letters(settings: StoreSettings) -> None:
    await init(settings)
    async with sqs_client(settings) as client:
        url = (await client.get_queue_url(QueueName=settings.request_queue))["QueueUrl"]
        attributes = (await client.get_queue_attributes(QueueUrl=url, AttributeNames=["All"]))["Attributes"]
    policy = json.loads(attributes["RedrivePolicy"])
    assert policy["deadLetterTargetArn"].endswith(f":{settings.request_queue}-dead")
    assert policy["maxReceiveCount"] == 10
    assert attributes["VisibilityTimeout"] == "30"


async def test_a_queue_without_a_redrive_policy_gets_one_and_keeps_the_rest(settings: StoreSettings) -> None:
    async with sqs_client(settings) as client:
        attributes = {"VisibilityTimeout": "77", "MessageRetentionPeriod": "3600"}
        made = await client.create_queue(QueueName=settings.request_queue, Attributes=attributes)  # type: ignore[arg-type]
        await ensure_queue(client, settings.request_queue)
        answer = await client.get_queue_attributes(QueueUrl=made["QueueUrl"], AttributeNames=["All"])
    assert "RedrivePolicy" in answer["Attributes"]
    assert answer["Attributes"]["VisibilityTimeout"] == "77"
    assert answer["Attributes"]["MessageRetentionPeriod"] == "3600"


async def test_queues_take_the_largest_messages_and_one_that_does_not_is_named(settings: StoreSettings) -> None:
    async with sqs_client(settings) as client:
        old = {"MaximumMessageSize": "262144"}
        await client.create_queue(QueueName=settings.request_queue, Attributes=old)  # type: ignore[arg-type]
        with capture_logs() as logs:
            for name in (settings.request_queue, settings.response_queue, settings.response_queue):
                await ensure_queue(client, name)
        url = (await client.get_queue_url(QueueName=f"{settings.response_queue}-dead"))["QueueUrl"]
        answer = await client.get_queue_attributes(QueueUrl=url, AttributeNames=["MaximumMessageSize"])
    assert answer["Attributes"]["MaximumMessageSize"] == "1048576"
    assert [(log["queue"], log["limit"]) for log in logs] == [(settings.request_queue, 262144)]


async def test_the_bucket_is_closed_to_the_public(settings: StoreSettings) -> None:
    async with s3_client(settings) as client:
        assert (await ensure_bucket(client, settings.bucket, "eu-central-1")).made
        access = await client.get_public_access_block(Bucket=settings.bucket)
        assert not (await ensure_bucket(client, settings.bucket, "eu-central-1")).made
    assert all(access["PublicAccessBlockConfiguration"].values())


async def test_says_in_the_end_that_nothing_answers(aws_environment: str) -> None:
    settings = StoreSettings(aws_endpoint_url=f"http://127.0.0.1:{free_port()}")
    assert settings.aws_endpoint_url != aws_environment
    async with asyncio.timeout(30):
        with pytest.raises(FacewireError, match=r"unreachable.*FACEWIRE_AWS_ENDPOINT_URL"):
            await init(settings, wait_seconds=1.0)


def test_the_command_needs_no_more_than_its_own_extras(settings: StoreSettings) -> None:
    program = f"""
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {HEAVY!r}:
            raise ImportError(f"{{name}} is not there")

sys.meta_path.insert(0, Absent())
sys.argv = ["facewire", "aws", "init"]
from facewire_standalone.cli import main
main()
"""
    given = {name.upper(): value for name, value in settings.model_dump(include=set(AwsSettings.model_fields)).items()}
    environment = {f"FACEWIRE_{name}": str(given[name]) for name in ("AWS_ENDPOINT_URL", "REQUEST_QUEUE", "BUCKET")}
    environment |= {"FACEWIRE_STORE": "dynamodb", "FACEWIRE_TABLE": f"t-{uuid4().hex}"}
    result = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert f"queue {settings.request_queue}: made" in result.stdout.splitlines()
