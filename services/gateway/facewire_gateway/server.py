"""uvicorn as one task among others: it has no signal handlers of its own and stops with an event."""

import asyncio
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI

from facewire.domain.errors import SettingsError
from facewire.runtime.settings import GatewaySettings
from facewire_gateway.api.auth import is_loopback
from facewire_gateway.connections import BoundedHttp
from facewire_gateway.delivery.feed import Feed

#: asyncio accepts so many at a time; where the system runs out of sockets it also logs so many lines a second.
_BACKLOG = 128
#: Longer than clients and proxies keep an idle connection, so that they, not we, close it between two requests.
_KEEP_ALIVE_SECONDS = 75


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to whoever runs us."""
        yield


def listen(settings: GatewaySettings, *, keys_required: bool) -> socket.socket:
    """Return a socket that listens where the settings say.

    SettingsError where the address cannot be used, or is not loopback while nobody needs a key, or where the TLS files
    are none.
    """
    if not keys_required and not is_loopback(settings.host):
        detail = f"host {settings.host!r} is not loopback, and there are no keys: `facewire keys add` makes one"
        raise SettingsError("host", detail)
    _check_tls(settings)
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family, backlog=_BACKLOG)
    except OSError as error:
        detail = f"cannot listen on {settings.host}:{settings.port}: {error.strerror or error}"
        raise SettingsError("port", detail) from error


def url_of(listener: socket.socket, settings: GatewaySettings) -> str:
    """Return the address that a client on this machine uses, without a slash at its end."""
    host, port = listener.getsockname()[:2]
    scheme = "https" if settings.tls_cert_file else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


async def serve(
    app: FastAPI, listener: socket.socket, settings: GatewaySettings, *, feed: Feed, stop: asyncio.Event
) -> None:
    """Serve `app`, made by `create_app`, on `listener` until `stop` is set; then finish what is in flight.

    Event streams and long polls end at the stop, and uploads that are still arriving are refused. Requests
    that take longer than `drain_seconds` are cut off. Closes the socket.
    """
    server = _Server(_config(app, settings))
    async with asyncio.TaskGroup() as tasks:
        serving = tasks.create_task(server.serve(sockets=[listener]), name="http server")
        stopping = tasks.create_task(stop.wait(), name="http stop")
        await asyncio.wait((serving, stopping), return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        feed.close()
        app.state.bodies.close()
        server.should_exit = True


def _config(app: FastAPI, settings: GatewaySettings) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=BoundedHttp,
        ws="none",
        backlog=_BACKLOG,
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=max(1, round(settings.drain_seconds)),
        ssl_certfile=settings.tls_cert_file,
        ssl_keyfile=settings.tls_key_file,
    )


def _check_tls(settings: GatewaySettings) -> None:
    if settings.tls_cert_file is None:
        if settings.tls_key_file is not None:
            raise SettingsError("tls_cert_file", "tls_key_file is set without tls_cert_file: set both")
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(settings.tls_cert_file, settings.tls_key_file)
    except OSError as error:
        files = f"tls_cert_file {settings.tls_cert_file}, tls_key_file {settings.tls_key_file}"
        raise SettingsError("tls_cert_file", f"{files}: no usable certificate and key: {error}") from error
