"""Uploads on their way to the detector: committed here before their 202, and kept until they have an answer."""

from collections.abc import Sequence
from datetime import datetime, timedelta

import structlog

from facewire.adapters.sqlite.inbox import Inbox
from facewire.adapters.sqlite.queue import QueueDepth
from facewire.domain.errors import IntakeError, QueueError, StoreError
from facewire.domain.lifecycle import Received, RequestState
from facewire.domain.messages import Frame
from facewire.domain.ports import ResultStore
from facewire_gateway.api.deps import FrameSink

_log = structlog.get_logger(__name__)


class Outbox(FrameSink):
    """Takes frames in to be handed over: `frames` holds them, `results` notes each as pending.

    Several gateways may share the file of `frames`. `mqtt_max_bytes` is the largest payload that the broker takes,
    `id_window_seconds` how long a request id stands for one content.
    """

    def __init__(self, frames: Inbox, results: ResultStore, *, mqtt_max_bytes: int, id_window_seconds: float) -> None:
        self.frames = frames
        self._results = results
        self._mqtt_max_bytes = mqtt_max_bytes
        self._window = timedelta(seconds=id_window_seconds)

    async def accept(self, frame: Frame) -> None:
        """Commit `frame`, then note its request as pending.

        Once it is committed it is handed over and answered: where the store fails then, the hand-over notes it.
        IntakeError `too_large` for a frame that the broker would not take, `id_conflict`, `overloaded`; QueueError or
        StoreError where it could not be committed: the sender has no 202 then, and sends it again.
        """
        self._check_size(frame)
        known = await self._results.get(frame.request_id)
        state = RequestState(known, self._window)
        outcome = state.on(Received(frame)).outcome
        if outcome == "conflict":
            seconds = self._window.total_seconds()
            detail = f"request id {frame.request_id!r} was used for another picture in the last {seconds:.0f} s"
            raise IntakeError("id_conflict", f"{detail}: choose another id")
        await self.frames.accept(frame, again=not state.is_answered, anew=outcome == "retry")
        try:
            await self._results.expect(frame)
        except StoreError as error:
            _log.warning("an upload is not noted as pending yet", request_id=frame.request_id, error=error.code)

    async def forget(self, requests: Sequence[tuple[str, datetime]]) -> None:
        """Delete the frames of requests, by id and receipt, that have their answer.

        Where that fails the hand-over does it when they are due. What was sent anew after the answer stays.
        """
        if not requests:
            return
        try:
            await self.frames.withdraw(requests)
        except QueueError as error:
            _log.warning("answered frames stay in the outbox for now", error=error.code, detail=error.detail)

    async def depth(self) -> QueueDepth:
        """Return how many frames wait for their answer."""
        return await self.frames.depth()

    def _check_size(self, frame: Frame) -> None:
        size = frame.size
        if size > self._mqtt_max_bytes:
            detail = (
                f"the image makes an MQTT message of {size:,} bytes, the broker takes {self._mqtt_max_bytes:,} "
                "(FACEWIRE_MQTT_MAX_BYTES): send it smaller"
            )
            raise IntakeError("too_large", detail)
