"""What any replica publishes of answers, on its way to the event streams and long polls of this one."""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator
from typing import Protocol

import structlog

from facewire.background import background
from facewire.errors import RecognizeError
from facewire.messages import RecognizedFaces, sha256
from facewire.mqtt import Received
from facewire_gateway.drain import is_conflict
from facewire_gateway.feed import MAX_REPLAY, Feed

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


async def relay(connection: Listening, feed: Feed) -> None:
    """Hand each answer that arrives to `feed`, until cancelled.

    Nothing is kept for a replica that is not connected, so with each new connection its listeners are told of a gap.
    """
    async with background(_tell_gaps(connection, feed), name="gaps of the relay"):
        known = OrderedDict[str, str]()
        async for message in connection.messages():
            _take(message, feed, known)
            message.acknowledge()


def _take(message: Received, feed: Feed, known: OrderedDict[str, str]) -> None:
    """Publish the answer in `message` unless `known`, the latest answers by request id, holds it: QoS 1 may repeat."""
    try:
        answer = RecognizedFaces.from_bytes(message.payload)
    except RecognizeError as error:
        _log.warning("an answer on MQTT cannot be read", topic=message.topic, code=error.code, detail=error.detail)
        return
    digest = sha256(message.payload)
    # A conflict is about another message than the request of that id.
    if is_conflict(answer) or known.get(answer.request_id) == digest:
        return
    known[answer.request_id] = digest
    if len(known) > MAX_REPLAY:
        known.popitem(last=False)
    feed.publish([answer])


async def _tell_gaps(connection: Listening, feed: Feed) -> None:
    seen = 0
    while True:
        if connection.connections != seen:
            seen = connection.connections
            feed.miss()
        await asyncio.sleep(_WATCH_SECONDS)
