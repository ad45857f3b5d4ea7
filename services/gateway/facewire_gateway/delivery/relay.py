"""What any replica publishes of answers, on its way to the event streams and long polls of this one."""

import asyncio
from collections.abc import AsyncIterator
from typing import Protocol

import structlog

from facewire.adapters.mqtt.connection import Received
from facewire.domain.errors import RecognizeError, StoreError
from facewire.domain.lifecycle import Answered, RequestState
from facewire.domain.messages import RecognizedFaces
from facewire.domain.ports import ResultStore
from facewire.runtime.background import background
from facewire_gateway.delivery.feed import Feed

_log = structlog.get_logger(__name__)

#: Answers to cameras, and those to uploads without one.
RESULTS_TOPICS = ("clients/+/results", "uploads/+/results")
_WATCH_SECONDS = 1.0


class Listening(Protocol):
    """The MQTT connection subscribed to RESULTS_TOPICS, as far as it is needed here."""

    @property
    def connections(self) -> int:
        """How often the connection has been made."""

    def messages(self) -> AsyncIterator[Received]:
        """Yield what arrives."""


async def relay(connection: Listening, feed: Feed, results: ResultStore) -> None:
    """Hand each answer that arrives to `feed`, until cancelled, if it is one that `results` holds.

    Senders are told of others as well. Nothing is kept for a replica that is not connected, so with each new connection
    its listeners are told of a gap.
    """
    async with background(_tell_gaps(connection, feed), name="gaps of the relay"):
        async for message in connection.messages():
            await _take(message, feed, results)
            message.acknowledge()


async def _take(message: Received, feed: Feed, results: ResultStore) -> None:
    try:
        answer = RecognizedFaces.from_bytes(message.payload)
        if feed.knows(answer):
            return
        transition = RequestState(await results.get(answer.request_id)).on(Answered(answer))
        if transition.outcome == "kept_before" and transition.told is not None:
            feed.publish([transition.told])
    except RecognizeError as error:
        _log.warning("an answer on MQTT cannot be read", topic=message.topic, code=error.code, detail=error.detail)
    except StoreError as error:
        _log.warning("an answer on MQTT was not told: the store did not answer", code=error.code, detail=error.detail)
        feed.miss()


async def _tell_gaps(connection: Listening, feed: Feed) -> None:
    seen = 0
    while True:
        if connection.connections != seen:
            seen = connection.connections
            feed.miss()
        await asyncio.sleep(_WATCH_SECONDS)
