"""The component: what its configuration asks for, run anew whenever that changes, until the nucleus says stop."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import structlog
from awsiot.greengrasscoreipc.model import (  # type: ignore[import-untyped]
    ReportedLifecycleState,
    UpdateStateRequest,
)

from facewire.runtime.background import background
from facewire.runtime.backoff import run_until
from facewire.runtime.logs import configure_logging
from facewire_greengrass.configuration import Configuration, Prepared
from facewire_greengrass.frames import IpcFrames
from facewire_greengrass.nucleus import Nucleus
from facewire_greengrass.nucleus_errors import NucleusError
from facewire_greengrass.pipeline import open_pipeline
from facewire_greengrass.settings import ComponentSettings, NucleusSettings

#: What a stop may take before it is cut short; connections then need a moment to end. What is not done is on the disk.
STOP_SECONDS = 3.5
_PREPARE_GRACE_SECONDS = 0.5

_log = structlog.get_logger(__name__)


async def run_component(settings: NucleusSettings, stop: asyncio.Event) -> None:
    """Detect as the component's configuration says until `stop` is set.

    SettingsError, ModelError or NucleusError where it cannot start with the configuration of its deployment; the
    nucleus is told. Whatever is out of reach meanwhile is waited for.
    """
    async with _stopping_within(STOP_SECONDS, stop), Nucleus.open(settings) as nucleus:
        try:
            await _Component(nucleus, Configuration(nucleus, settings), IpcFrames(nucleus), stop).run()
        except Exception:
            await _report(nucleus, ReportedLifecycleState.ERRORED)
            raise


@dataclass(frozen=True, slots=True)
class _Component:
    nucleus: Nucleus
    configuration: Configuration
    frames: IpcFrames
    stop: asyncio.Event
    runs: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        """Run what the configuration asks for, one after the other, until the stop."""
        async with (
            background(self.configuration.follow(), name="configuration"),
            background(self._report_running(), name="state"),
        ):
            prepared = await self._next(None)
            while prepared is not None:
                prepared = await self._run_until_changed(prepared)

    async def _run_until_changed(self, prepared: Prepared) -> Prepared | None:
        """Run with these settings; return what comes after them, None for the stop."""
        settings = prepared.settings
        configure_logging(settings.log_level, settings.log_format)
        ended = asyncio.Event()
        async with open_pipeline(prepared, self.nucleus, self.frames) as pipeline, asyncio.TaskGroup() as tasks:
            tasks.create_task(pipeline.run(ended, self.stop), name="pipeline")
            _log.info("running", source=settings.source, topic=settings.topic, results=settings.results)
            self.runs.set()
            following = await self._next(settings)
            ended.set()
        return following

    async def _next(self, current: ComponentSettings | None) -> Prepared | None:
        """Return the settings that come after `current`, None once the component is to stop."""
        return await run_until(self.configuration.next(current), self.stop, moment=0, grace=_PREPARE_GRACE_SECONDS)

    async def _report_running(self) -> None:
        """Tell each nucleus that comes that the component runs; until cancelled."""
        await self.runs.wait()
        connected = self.nucleus.connection_event()
        while True:
            await connected.wait()
            connected.clear()
            await _report(self.nucleus, ReportedLifecycleState.RUNNING)


async def _report(nucleus: Nucleus, state: str) -> None:
    try:
        await nucleus.ask("update_state", UpdateStateRequest(state=state))
    except NucleusError as error:
        _log.warning("the nucleus could not be told of the state", state=state, error=error.code)


@asynccontextmanager
async def _stopping_within(seconds: float, stop: asyncio.Event) -> AsyncIterator[None]:
    """Cut the block off `seconds` after `stop` was set."""
    deadline = asyncio.timeout(None)

    async def limit() -> None:
        await stop.wait()
        deadline.reschedule(asyncio.get_running_loop().time() + seconds)

    try:
        async with deadline, background(limit(), name="limit of the stop"):
            yield
    except TimeoutError:
        if not deadline.expired():
            raise
        _log.warning("the stop was cut short: what is left is on the disk", seconds=seconds)
