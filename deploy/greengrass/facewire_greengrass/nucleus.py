"""The IPC connection to the Greengrass nucleus: made again for as long as it is wanted, subscriptions included.

The SDK's client (awsiotsdk) works in threads of its own and does not reconnect; here its calls can be awaited, and its
events are delivered in the event loop, in order.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Self

import structlog
from awscrt.io import ClientBootstrap, SocketDomain, SocketOptions  # type: ignore[import-untyped]
from awsiot.eventstreamrpc import (  # type: ignore[import-untyped]
    Connection,
    LifecycleHandler,
    MessageAmendment,
    StreamResponseHandler,
)
from awsiot.greengrasscoreipc.client import GreengrassCoreIPCClient  # type: ignore[import-untyped]

from facewire.domain.errors import needs_operator
from facewire.runtime.background import background
from facewire.runtime.backoff import end_if_cancelled, growing_pauses
from facewire_greengrass.nucleus_errors import CALL_SECONDS, NucleusError, as_nucleus_errors
from facewire_greengrass.settings import NucleusSettings

CONNECT_SECONDS = 10.0
_CLOSE_SECONDS = 1.0
_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 5.0

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Subscription:
    """A streaming operation of the SDK by its name, such as `subscribe_to_topic`, its request, and what takes events.

    `on_event` is called in the event loop. An `optional` one is done without where the nucleus does not offer it.
    """

    operation: str
    request: Any
    on_event: Callable[[Any], None]
    optional: bool = False


@dataclass(slots=True)
class _Session:
    """One connection, from its acceptance to its loss."""

    client: Any
    loop: asyncio.AbstractEventLoop
    lost: asyncio.Event
    streams: dict[Subscription, Any] = field(default_factory=dict)

    async def ask(self, name: str, request: Any, handler: Any = None) -> tuple[Any, Any]:
        """Return the answer to the request, and the operation."""
        with as_nucleus_errors(name):
            async with asyncio.timeout(CALL_SECONDS):
                new = getattr(self.client, f"new_{name}")
                operation = new() if handler is None else new(handler)
                await asyncio.wrap_future(operation.activate(request))
                return await asyncio.wrap_future(operation.get_response()), operation

    async def subscribe(self, subscription: Subscription) -> None:
        """Subscribe; the stream's end, unless it is wanted, ends the session."""
        ended = asyncio.Event()

        def note_end() -> None:
            ended.set()
            if subscription in self.streams:
                self.lost.set()

        events = _Events(self.loop, subscription.on_event, note_end)
        try:
            _, self.streams[subscription] = await self.ask(subscription.operation, subscription.request, events)
        except NucleusError as error:
            if not subscription.optional or error.code in {"connection_lost", "timeout"}:
                raise
            _log.warning("the nucleus does not offer this", operation=subscription.operation, error=error.detail)
            return
        if ended.is_set():
            self.lost.set()

    async def unsubscribe(self, subscription: Subscription) -> None:
        """Close the stream, if there is one."""
        if (operation := self.streams.pop(subscription, None)) is not None:
            await asyncio.wait({asyncio.wrap_future(operation.close())}, timeout=_CLOSE_SECONDS)


class Nucleus:
    """The nucleus of this core, as far as it can be reached."""

    def __init__(self, settings: NucleusSettings) -> None:
        self._settings = settings
        self._session: _Session | None = None
        self._subscriptions: list[Subscription] = []
        self._tell: list[asyncio.Event] = []
        self._pauses = growing_pauses(_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS)
        self._outage = ""

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: NucleusSettings) -> AsyncIterator[Self]:
        """Keep a connection while the block runs; it need not be up yet when the block starts."""
        nucleus = cls(settings)
        async with background(nucleus._stay_connected(), name="connection to the nucleus"):
            yield nucleus

    @property
    def connected(self) -> bool:
        """Whether the nucleus can be asked."""
        return self._session is not None

    def connection_event(self) -> asyncio.Event:
        """Return an event that is set at each new connection; whoever waits for it clears it."""
        event = asyncio.Event()
        if self.connected:
            event.set()
        self._tell.append(event)
        return event

    async def ask(self, operation: str, request: Any) -> Any:
        """Return the answer to one request of the SDK's operation of that name; NucleusError where there is none."""
        if self._session is None:
            detail = f"no connection to the nucleus at {self._settings.socket}: it is made again"
            raise NucleusError("not_connected", detail)
        answer, _ = await self._session.ask(operation, request)
        return answer

    async def subscribe(self, subscription: Subscription) -> None:
        """Hold a subscription, over all connections; NucleusError where the nucleus refuses it now."""
        self._subscriptions.append(subscription)
        if (session := self._session) is None:
            return
        try:
            await session.subscribe(subscription)
        except NucleusError as error:
            if needs_operator(error):
                self._subscriptions.remove(subscription)
                raise
            # It is made with the next connection, which has to come then.
            _log.warning("a subscription has to wait", operation=subscription.operation, error=error.code)
            session.lost.set()

    async def unsubscribe(self, subscription: Subscription) -> None:
        """Give up the subscription; its events that are here already may still be delivered."""
        self._subscriptions.remove(subscription)
        if self._session is not None:
            await self._session.unsubscribe(subscription)

    async def _stay_connected(self) -> None:
        while True:
            try:
                await self._hold_connection()
                self._note_outage("the connection was closed")
            except NucleusError as error:
                self._note_outage(error.detail)
            end_if_cancelled()
            await asyncio.sleep(next(self._pauses))

    async def _hold_connection(self) -> None:
        """Connect, subscribe, and wait for the loss; NucleusError where the connection does not come about."""
        loop, lost = asyncio.get_running_loop(), asyncio.Event()
        connection = self._new_connection()
        try:
            with as_nucleus_errors("connect"):
                async with asyncio.timeout(CONNECT_SECONDS):
                    await asyncio.wrap_future(connection.connect(_Lifecycle(loop, lost)))
            session = _Session(GreengrassCoreIPCClient(connection), loop, lost)
            await self._make_subscriptions(session)
            self._begin(session)
            await lost.wait()
        finally:
            self._session = None
            await _close(connection)

    async def _make_subscriptions(self, session: _Session) -> None:
        """Make the subscriptions, those included that are asked for meanwhile, without those given up meanwhile."""
        made: set[Subscription] = set()
        while changed := made ^ set(self._subscriptions):
            for subscription in changed:
                if subscription in made:
                    made.remove(subscription)
                    await session.unsubscribe(subscription)
                else:
                    made.add(subscription)
                    await session.subscribe(subscription)

    def _new_connection(self) -> Any:
        # A new one each time; the SDK's `connect` would also start a thread that nothing ends.
        options = SocketOptions()
        options.domain = SocketDomain.Local
        return Connection(
            host_name=str(self._settings.socket),
            port=0,
            bootstrap=ClientBootstrap.get_or_create_static_default(),
            socket_options=options,
            connect_message_amender=MessageAmendment.create_static_authtoken_amender(
                self._settings.token.get_secret_value()
            ),
        )

    def _begin(self, session: _Session) -> None:
        self._session = session
        self._outage = ""
        self._pauses = growing_pauses(_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS)
        for event in self._tell:
            event.set()
        _log.info("connected to the nucleus", subscriptions=len(session.streams))

    def _note_outage(self, reason: str) -> None:
        if reason != self._outage:
            self._outage = reason
            _log.warning("no connection to the nucleus", socket=str(self._settings.socket), error=reason)


class _Lifecycle(LifecycleHandler):  # type: ignore[misc] # the SDK has no types
    """Tells the event loop of the connection's loss."""

    def __init__(self, loop: asyncio.AbstractEventLoop, lost: asyncio.Event) -> None:
        self._loop = loop
        self._lost = lost

    def on_disconnect(self, reason: Exception | None) -> None:  # noqa: ARG002 - the SDK's signature
        """Note the loss; the SDK's thread calls this."""
        _tell(self._loop, self._lost.set)

    def on_error(self, error: Exception) -> bool:  # noqa: ARG002 - the SDK's signature
        """Let the connection be closed; it is made again."""
        return True


class _Events(StreamResponseHandler):  # type: ignore[misc] # the SDK has no types
    """Hands the events of one stream to the event loop."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, on_event: Callable[[Any], None], on_closed: Callable[[], None]
    ) -> None:
        self._loop = loop
        self._on_event = on_event
        self._on_closed = on_closed

    def on_stream_event(self, event: Any) -> None:
        """Pass the event on; the SDK's thread calls this."""
        _tell(self._loop, self._on_event, event)

    def on_stream_error(self, error: Exception) -> bool:
        """Let the stream be closed, and with it the connection, which is made again."""
        _tell(self._loop, _note_stream_error, type(error).__name__)
        return True

    def on_stream_closed(self) -> None:
        """Note the end; the SDK's thread calls this."""
        _tell(self._loop, self._on_closed)


def _tell(loop: asyncio.AbstractEventLoop, call: Callable[..., None], *arguments: object) -> None:
    """Call in the event loop, from the SDK's thread; it may still speak when the loop has ended, and nobody listens."""
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(call, *arguments)


def _note_stream_error(name: str) -> None:
    _log.warning("a stream of the nucleus failed", error=name)


async def _close(connection: Any) -> None:
    closed = asyncio.wrap_future(connection.close())
    await asyncio.wait({closed}, timeout=_CLOSE_SECONDS)
    if closed.done() and not closed.cancelled():
        closed.exception()  # looked at here, or asyncio would complain of an error nobody saw
