"""What goes wrong with a call to AWS, in terms of what to do about it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from botocore.exceptions import (  # type: ignore[import-untyped]
    BotoCoreError,
    ClientError,
    ConnectionError,  # noqa: A004 - botocore's own, no OSError
    CredentialRetrievalError,
    HTTPClientError,
    NoCredentialsError,
    PartialCredentialsError,
)
from botocore.parsers import ResponseParserError  # type: ignore[import-untyped]

from facewire.domain.errors import FacewireError

#: Everything that a call to AWS may raise.
AWS_ERRORS: tuple[type[Exception], ...] = (BotoCoreError, ClientError, ResponseParserError)

_NO_CREDENTIALS = (NoCredentialsError, PartialCredentialsError, CredentialRetrievalError)
_NO_ANSWER = (ConnectionError, HTTPClientError)
_FIRST_SERVER_FAULT = 500
_MISSING = {
    "NonExistentQueue": "no_such_queue",
    "QueueDoesNotExist": "no_such_queue",
    "ResourceNotFound": "no_such_table",
    "NoSuchBucket": "no_such_bucket",
}


@contextmanager
def aws_errors_as(kind: type[FacewireError]) -> Iterator[None]:
    """Raise what goes wrong with AWS in the block as a `kind`, in the words of `explain_error`."""
    try:
        yield
    except AWS_ERRORS as error:
        raise kind(*explain_error(error)) from error


def error_code(error: Exception) -> str:
    """Return the code AWS gave, without the prefix and suffix that some services add; "" where AWS gave no answer."""
    response: dict[str, Any] = getattr(error, "response", None) or {}
    return plain_code(str(response.get("Error", {}).get("Code", ""))) if isinstance(error, ClientError) else ""


def plain_code(code: str) -> str:
    """Return `AWS.SimpleQueueService.NonExistentQueue` as `NonExistentQueue`, `ThrottlingException` as `Throttling`."""
    return code.rpartition(".")[2].removesuffix("Exception")


def is_throttling(code: str) -> bool:
    """Return whether the plain code says that AWS wants to be asked less often."""
    return "Throttl" in code or code in {"RequestLimitExceeded", "ProvisionedThroughputExceeded", "SlowDown"}


def explain_error(error: Exception) -> tuple[str, str]:
    """Return code and detail for a FacewireError.

    `unreachable`: no answer. `unavailable`: AWS could not just now, or throttles. `no_credentials`: none were found.
    `no_such_queue`, `no_such_table`, `no_such_bucket`: it is to be made first. `refused`: AWS will say the same again.
    """
    if isinstance(error, ClientError):
        return _explain_answer(error)
    if isinstance(error, _NO_CREDENTIALS):
        return "no_credentials", f"{error}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the host a role"
    if isinstance(error, _NO_ANSWER):
        return "unreachable", f"{error}: is FACEWIRE_AWS_ENDPOINT_URL right, and does something answer there?"
    if isinstance(error, ResponseParserError):
        return "unreachable", "what answers at FACEWIRE_AWS_ENDPOINT_URL does not speak as AWS does"
    return "refused", f"{type(error).__name__}: {error}"


def _explain_answer(error: Exception) -> tuple[str, str]:
    code = error_code(error)
    if code in _MISSING:
        return _MISSING[code], f"{error}: `facewire aws init` makes what is missing"
    response: dict[str, Any] = getattr(error, "response", {})
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    passing = status >= _FIRST_SERVER_FAULT or is_throttling(code)
    return "unavailable" if passing else "refused", str(error)
