"""What functions that read a queue have in common: the messages of an event, and which of them come again."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

from facewire.domain.queue_ports import Lease
from facewire_lambda.runtime import Event


@dataclass(frozen=True, slots=True)
class Record:
    """A message of an SQS event, by the id that the result names it by where it failed."""

    message_id: str
    lease: Lease

    @classmethod
    def all_of(cls, event: Event) -> list[Self]:
        """Return the messages of the event."""
        return [
            cls(
                record["messageId"],
                Lease(
                    record["receiptHandle"],
                    record["body"].encode(),
                    int(record["attributes"]["ApproximateReceiveCount"]),
                ),
            )
            for record in event["Records"]
        ]


def batch_result(failed: Iterable[Record]) -> dict[str, Any]:
    """Return a result that keeps the `failed` messages on the queue; SQS deletes the others."""
    return {"batchItemFailures": [{"itemIdentifier": record.message_id} for record in failed]}
