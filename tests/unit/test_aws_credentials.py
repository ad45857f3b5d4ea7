import logging

import pytest
from botocore.utils import ContainerMetadataFetcher  # type: ignore[import-untyped]

from facewire.adapters.aws.sqs.queue import SqsQueues
from facewire.domain.errors import QueueError
from facewire.runtime.settings import AwsSettings
from token_service import token_service

QUEUE = "http://127.0.0.1:1/000000000000/requests"


@pytest.fixture
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setattr(ContainerMetadataFetcher, "SLEEP_TIME", 0)


@pytest.mark.usefixtures("no_keys")
async def test_a_token_service_that_cannot_answer_is_an_outage_of_the_call(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The clients are made all the same, and what the service says goes nowhere: it may quote credentials."""
    async with token_service() as tokens:
        for name, value in tokens.environment.items():
            monkeypatch.setenv(name, value)
        tokens.refusal = "responded with expired credentials: hunter2"
        with caplog.at_level(logging.WARNING):
            async with SqsQueues.open(AwsSettings(aws_endpoint_url="http://127.0.0.1:1")) as queues:
                assert not tokens.asked
                with pytest.raises(QueueError, match="non 200 response 500") as error:
                    await queues.queue(QUEUE).send([b"message"])
                assert error.value.code == "no_credentials"
                tokens.refusal = None
                with pytest.raises(QueueError) as reached:
                    await queues.queue(QUEUE).send([b"message"])
    assert reached.value.code == "unreachable"
    assert "hunter2" not in str(error.value)
    assert "hunter2" not in caplog.text
    assert "Traceback" not in caplog.text


@pytest.mark.usefixtures("no_keys")
async def test_a_relative_address_names_the_service_of_ecs(monkeypatch: pytest.MonkeyPatch) -> None:
    async with token_service() as tokens:
        monkeypatch.setattr(ContainerMetadataFetcher, "IP_ADDRESS", f"127.0.0.1:{tokens.port}")
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/v2/credentials/task")
        async with SqsQueues.open(AwsSettings(aws_endpoint_url="http://127.0.0.1:1")) as queues:
            with pytest.raises(QueueError) as reached:
                await queues.queue(QUEUE).send([b"message"])
    assert reached.value.code == "unreachable"
    assert tokens.asked[0].startswith("GET /v2/credentials/task ")
