"""Every function under the real Lambda runtime interface emulator and the real runtime client, on this machine."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from itertools import count
from pathlib import Path

import pytest

import lambda_scenarios as scenarios
from lambda_account import Account, new_account
from lambda_host import Runtime, runtime


@pytest.fixture
def account(aws_environment: str) -> Iterator[Account]:
    with ExitStack() as opened:
        yield Account(new_account(aws_environment), opened)


@pytest.fixture
def start(tmp_path: Path) -> scenarios.Start:
    numbers = count()

    def start(handler: str, environment: Mapping[str, str]) -> AbstractContextManager[Runtime]:
        return runtime(handler, environment, tmp_path / f"{next(numbers)}.log")

    return start


def test_people_are_enrolled_and_named(start: scenarios.Start, account: Account, samples: Path) -> None:
    scenarios.enrols_and_names(start, account, samples)


def test_of_ten_messages_exactly_the_poisoned_one_fails(
    start: scenarios.Start, account: Account, samples: Path
) -> None:
    scenarios.reports_exactly_the_poisoned_message(start, account, samples)


def test_pictures_of_the_bucket_are_kept(start: scenarios.Start, account: Account, samples: Path) -> None:
    scenarios.keeps_pictures_of_the_bucket(start, account, samples)


def test_dead_letters_are_answered(start: scenarios.Start, account: Account) -> None:
    scenarios.answers_dead_letters(start, account)


def test_a_wrong_setting_is_what_the_runtime_reports(start: scenarios.Start, account: Account) -> None:
    with start("facewire_lambda.enroll.enroll", {**account.environment, "FACEWIRE_THRESHOLD": "high"}) as enroll:
        said = enroll.invoke({"bucket": account.bucket, "key": "enroll/Ada/1.jpg"})
    assert said["errorType"] == "SettingsError"
    assert "threshold" in said["errorMessage"]
