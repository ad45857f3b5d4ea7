"""HTTP connections: how many there may be, and how long one may hold its place without a request."""

import asyncio
import resource

import structlog
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from facewire_gateway import metrics

_log = structlog.get_logger(__name__)

#: All event streams and twice as many uploads and long polls; with the files of the database and the connections of
#: the MQTT broker still below 1,024, the number of open files that most systems allow a process.
MAX_CONNECTIONS = 768
#: From the connection, or the first byte of a further request, to the end of the request's head.
HEAD_SECONDS = 10.0
#: For the rest of a body that has been answered already; as long as a body that is read may take.
REST_SECONDS = 60.0


def raise_open_files_limit() -> None:
    """Let this process open as many files and sockets as the system allows it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError) as error:
        # Some systems name a hard limit that they do not grant.
        _log.warning("the limit of open files stays as it is", limit=soft, error=str(error))


def most_connections() -> int:
    """Return how many connections may be open: MAX_CONNECTIONS, or half of the files that may be if that is less."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_CONNECTIONS if soft == resource.RLIM_INFINITY else min(MAX_CONNECTIONS, soft // 2)


class BoundedHttp(HttpToolsProtocol):
    """HTTP/1.1 over one connection, closed when a request's head does not arrive in time; one too many is refused.

    uvicorn itself waits without limit for a first request, and for the rest of one that has begun.
    """

    _deadline: asyncio.TimerHandle | None = None
    _in_body = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as in uvicorn
        """Wait for a request, or abort the connection where there are too many."""
        super().connection_made(transport)
        if len(self.connections) > most_connections():
            metrics.CONNECTIONS_REFUSED.inc()
            transport.abort()
            return
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing any more."""
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read what arrived; where that leaves no request to work on, the next one has to come in time."""
        super().data_received(data)
        if self._deadline is None and self._is_idle():
            self._arm()

    def on_headers_complete(self) -> None:
        """Start the request."""
        self._disarm()
        self._in_body = True
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Note that the body is here."""
        self._disarm()
        self._in_body = False
        super().on_message_complete()

    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _arm(self) -> None:
        self._deadline = self.loop.call_later(REST_SECONDS if self._in_body else HEAD_SECONDS, self._give_up)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self) -> None:
        self._deadline = None
        metrics.CONNECTIONS_TIMED_OUT.inc()
        self.transport.abort()
