"""What SQS takes in one call: batches within its limits, and what to do about the part of a batch that failed.

Limits: Amazon SQS Developer Guide, "Amazon SQS message quotas".
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any, TypeVar

from facewire.adapters.aws.errors import is_throttling, plain_code
from facewire.domain.errors import QueueError
from facewire.domain.messages import MAX_MESSAGE_BYTES
from facewire.domain.ports import PartialError
from facewire.runtime.backoff import growing_pauses

T = TypeVar("T")

MAX_BATCH_MESSAGES = 10
#: For one message as well as for all bodies of a batch together (1 MiB).
MAX_BATCH_BYTES = 1_048_576
#: Parts of a batch that fail for a passing reason are tried this often, after pauses of 0.1 to 0.8 s.
_ATTEMPTS = 5
_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 1.0
_LONGEST_REASON = 500

#: What SQS refuses: it takes the characters of XML 1.0.
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
#: How SQS and LocalStack say that a receipt is no longer good: the message was deleted, or lent to somebody else.
_ENDED = {"ReceiptHandleIsInvalid", "MessageNotInflight", "InvalidParameterValue"}


def message_text(body: bytes) -> str:
    r"""Return the body as SQS takes it; QueueError `too_large` over 1,000,000 bytes, `not_text` where it is no text.

    The body is JSON, so it holds no control characters, which SQS refuses, and the noncharacters U+FFFE and U+FFFF,
    which SQS refuses too, mean the same when they are escaped.
    """
    if len(body) > MAX_MESSAGE_BYTES:
        detail = f"the message has {len(body):,} bytes, a queue takes {MAX_MESSAGE_BYTES:,}: send it smaller"
        raise QueueError("too_large", detail)
    if not body:
        raise QueueError("not_text", "the message is empty, which SQS refuses: send JSON")
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        detail = f"byte {error.start} of the message is no UTF-8, and SQS takes text only: send JSON"
        raise QueueError("not_text", detail) from error
    return text if text.isascii() else text.replace("\ufffe", r"\ufffe").replace("\uffff", r"\uffff")


def reason_text(reason: str) -> str:
    """Return the reason as an attribute takes it: without what is no text, at most 500 characters, not empty."""
    return _FORBIDDEN.sub("?", reason[:_LONGEST_REASON]) or "unknown"


def packed(texts: Sequence[str]) -> list[list[str]]:
    """Return the texts, in their order, in batches that SQS takes: up to ten, and 1 MiB of UTF-8 together."""
    batches: list[list[str]] = []
    room = 0
    for text in texts:
        size = len(text) if text.isascii() else len(text.encode())
        if size > room or len(batches[-1]) == MAX_BATCH_MESSAGES:
            batches.append([])
            room = MAX_BATCH_BYTES
        batches[-1].append(text)
        room -= size
    return batches


def in_tens(items: Sequence[T]) -> list[Sequence[T]]:
    """Return the items, in their order, ten by ten."""
    return [items[start : start + MAX_BATCH_MESSAGES] for start in range(0, len(items), MAX_BATCH_MESSAGES)]


async def complete(
    entries: Sequence[Mapping[str, Any]],
    request: Callable[[list[Any]], Awaitable[Mapping[str, Any]]],
    *,
    leases: bool = False,
) -> int:
    """Request a batch of up to ten entries until nothing is left to try; return how many leases had ended.

    What fails for a passing reason is tried again. PartialError, naming SQS's codes, where something stays: `refused`
    where SQS puts it down to the entry alone. `leases` says that entries name leases, and that one which has ended
    needs nothing more.
    """
    left: list[dict[str, Any]] = [{**entry, "Id": str(number)} for number, entry in enumerate(entries)]
    ended = 0
    passing: dict[int, str] = {}
    refused: dict[int, str] = {}
    for pause in _pauses():
        if pause:
            await asyncio.sleep(pause)
        try:
            answer = await request(left)
        except QueueError as error:
            positions = [int(entry["Id"]) for entry in left]
            raise PartialError(error.code, error.detail, left=positions, refused=list(refused)) from error
        ended_now, passing, refused_now = _sorted(answer.get("Failed", []), leases=leases)
        ended += ended_now
        refused |= refused_now
        left = [entry for entry in left if int(entry["Id"]) in passing]
        if not left:
            break
    if passing or refused:
        codes = ", ".join(sorted({*passing.values(), *refused.values()}))
        detail = f"SQS did not do {len(passing) + len(refused)} of {len(entries)} entries: {codes}"
        raise PartialError("unavailable" if passing else "refused", detail, left=list(passing), refused=list(refused))
    return ended


def _sorted(failed: Iterable[Mapping[str, Any]], *, leases: bool) -> tuple[int, dict[int, str], dict[int, str]]:
    """Return how many leases had ended, and by position the codes of what may pass and of what is refused."""
    ended = 0
    passing: dict[int, str] = {}
    refused: dict[int, str] = {}
    for failure in failed:
        code = plain_code(failure["Code"])
        if leases and code in _ENDED:
            ended += 1
        elif is_throttling(code) or not failure.get("SenderFault", False):
            passing[int(failure["Id"])] = code
        else:
            refused[int(failure["Id"])] = code
    return ended, passing, refused


def raise_joined(batches: Sequence[Sequence[T]], outcomes: Sequence[BaseException | None]) -> None:
    """Raise what went wrong with batches, if anything, as one PartialError: its positions count through all of them."""
    left: list[int] = []
    refused: list[int] = []
    first: PartialError | None = None
    start = 0
    for batch, outcome in zip(batches, outcomes, strict=True):
        if isinstance(outcome, PartialError):
            first = first or outcome
            left += (start + position for position in outcome.left)
            refused += (start + position for position in outcome.refused)
        elif outcome is not None:
            raise outcome
        start += len(batch)
    if first is not None:
        raise PartialError(first.code, first.detail, left=left, refused=refused) from first


def _pauses() -> Iterator[float]:
    """Yield seconds to wait before each attempt."""
    return chain([0.0], islice(growing_pauses(_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS), _ATTEMPTS - 1))
