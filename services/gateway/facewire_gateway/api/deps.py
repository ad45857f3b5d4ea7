"""What the routes work with, handed to them by FastAPI."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Protocol

from fastapi import Depends, Query, Request

from facewire.domain.messages import Frame
from facewire.domain.ports import GalleryStore, ResultStore
from facewire.runtime.readiness import Depth, Readiness
from facewire.runtime.settings import GatewaySettings
from facewire_gateway.delivery.feed import Feed

#: The longest wait of one call; proxies commonly cut connections that are silent for a minute.
MAX_WAIT_SECONDS = 30.0


class FrameSink(Protocol):
    """Where accepted frames go."""

    async def accept(self, frame: Frame) -> None:
        """Commit `frame` and note its request as pending; IntakeError `id_conflict` or `overloaded`."""


@dataclass(frozen=True, slots=True)
class Gateway:
    """The gateway's parts: where frames go, where answers and people are kept, and what is watched.

    `enroll_key` signs enrolments.
    """

    settings: GatewaySettings
    sink: FrameSink
    results: ResultStore
    gallery: GalleryStore
    feed: Feed
    enroll_key: bytes = field(repr=False)
    readiness: Mapping[str, Readiness] = field(default_factory=dict)
    depths: Mapping[str, Depth] = field(default_factory=dict)


async def _gateway(request: Request) -> Gateway:
    gateway: Gateway = request.app.state.gateway
    return gateway


Parts = Annotated[Gateway, Depends(_gateway)]
Wait = Annotated[float, Query(ge=0, le=MAX_WAIT_SECONDS, description="Seconds to wait for the answer")]
