"""The `facewire` command line: each command reads its arguments and calls one function.

Exit codes: 0 all went well, 1 the work failed, 2 wrong usage or setting.
"""
# ruff: noqa: PLC0415 - each command imports what it needs and no more, so that `facewire --help` answers at once

import asyncio
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from facewire.domain.errors import FacewireError
from facewire.runtime.exits import leaves, tell
from facewire_standalone.commands.options import Data, Embedder, Key, Pictures, Url
from facewire_standalone.groups.cli_aws import app as aws_app
from facewire_standalone.groups.cli_certs import app as certs_app
from facewire_standalone.groups.cli_gallery import app as gallery_app
from facewire_standalone.groups.cli_init import init
from facewire_standalone.groups.cli_keys import app as keys_app
from facewire_standalone.groups.cli_models import app as models_app

app = typer.Typer(
    name="facewire",
    help="Finds faces where the camera is and recognises them wherever that is cheapest.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(certs_app, name="certs")
app.add_typer(aws_app, name="aws")
app.add_typer(gallery_app, name="gallery")
app.add_typer(keys_app, name="keys")
app.add_typer(models_app, name="models")
app.command()(init)


def main() -> None:
    """Run the command line; what went wrong in a named way becomes one line on standard error."""
    code = 0
    try:
        app()
    except* (FacewireError, BrokenPipeError) as group:
        # Not `sys.exit` here: until 3.11.4 Python wraps what is raised in this block in a group (gh-103590).
        code = _report(list(leaves(group)))
    sys.exit(code)


def _report(errors: Sequence[Exception]) -> int:
    """Print each error once, none where nobody reads any more; return the exit code."""
    if any(isinstance(error, BrokenPipeError) for error in errors):
        _discard_output()
        return 1
    return tell(errors)


def _discard_output() -> None:
    """Let what is still buffered go nowhere: whoever read the output has gone, and the interpreter flushes at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _log_warnings() -> None:
    """Keep standard output for answers: a client's log is for what goes wrong, on standard error."""
    from facewire.runtime.logs import configure_logging
    from facewire_standalone.settings import default_log_format

    configure_logging("warning", default_log_format())


@app.command()
def up(  # noqa: PLR0913, PLR0917 - one parameter an option
    data: Data = None,
    host: Annotated[
        str | None, typer.Option(show_default="127.0.0.1", help="Address that the HTTP API listens on.")
    ] = None,
    port: Annotated[
        int | None, typer.Option(show_default="8080", help="Port of the HTTP API; 0 takes a free one.")
    ] = None,
    mqtt_host: Annotated[
        str | None, typer.Option(show_default="127.0.0.1", help="Address that the MQTT broker listens on.")
    ] = None,
    mqtt_port: Annotated[
        int | None, typer.Option(show_default="1883", help="Port of the MQTT broker; 0 takes a free one.")
    ] = None,
    mqtt_password_file: Annotated[
        Path | None, typer.Option(help="Lines user:password; needed to listen beyond 127.0.0.1.")
    ] = None,
    embedder: Embedder = None,
) -> None:
    """Run Facewire: MQTT broker, detector, recognizer and HTTP API in one process.

    Every setting can be given in the environment as well, with the prefix FACEWIRE_. SIGTERM or Ctrl-C stops it;
    what it had taken in and not yet answered is answered after the next start.
    """
    from facewire_standalone.settings import StandaloneSettings

    settings = StandaloneSettings.read(
        data_dir=data,
        host=host,
        port=port,
        mqtt_host=mqtt_host,
        mqtt_port=mqtt_port,
        mqtt_password_file=mqtt_password_file,
        embedder=embedder,
    )

    # A wrong setting is told before the second that this takes.
    from facewire_standalone.system import run_until_signalled

    asyncio.run(run_until_signalled(settings, typer.echo))


@app.command()
def enroll(
    folder: Annotated[Path, typer.Argument(help="Folder with one folder per person, pictures in each.")],
    url: Url = "http://127.0.0.1:8080",
    key: Key = None,
) -> None:
    """Enrol people from a folder: one folder per person, named as the person, pictures in it."""
    from rich.console import Console

    from facewire_standalone.commands.enroll import enroll_folder

    everybody = asyncio.run(enroll_folder(folder, url=url, key=key, console=Console()))
    raise typer.Exit(0 if everybody else 1)


@app.command()
def send(  # noqa: PLR0913, PLR0917 - one parameter an option
    pictures: Pictures,
    over_mqtt: Annotated[
        bool, typer.Option("--mqtt/--http", help="Publish as a camera does, or call the HTTP API.")
    ] = False,
    camera: Annotated[
        str | None,
        typer.Option(show_default="the bundle's, else send", help="Camera that the pictures are said to come from."),
    ] = None,
    wait: Annotated[bool, typer.Option(help="Wait for the answers and print them.")] = True,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for an answer.")] = 60.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print each answer as one line of JSON.")] = False,
    url: Url = "http://127.0.0.1:8080",
    key: Key = None,
    mqtt_host: Annotated[
        str | None, typer.Option(show_default="127.0.0.1", help="Host of the MQTT broker (with --mqtt).")
    ] = None,
    mqtt_port: Annotated[
        int | None,
        typer.Option(show_default="1883, 8883 with a bundle", help="Port of the MQTT broker (with --mqtt)."),
    ] = None,
    bundle: Annotated[
        Path | None, typer.Option(help="A device's file from `facewire certs device`: MQTT over TLS (with --mqtt).")
    ] = None,
) -> None:
    """Send pictures to a running Facewire and print the answers.

    With --mqtt they go out on clients/CAMERA and the answers are read from clients/CAMERA/results, just as a camera
    does it; user, password and certificates in files of their own come from FACEWIRE_MQTT_USERNAME, _PASSWORD,
    _CA_FILE, _CERT_FILE and _KEY_FILE.
    """
    from facewire_standalone.commands.mqtt_options import camera_name, camera_settings
    from facewire_standalone.commands.send import Sending, send_over_http, send_over_mqtt

    _log_warnings()
    complain = partial(typer.echo, err=True)
    sending = Sending(wait=wait, seconds=timeout, as_json=as_json, write=typer.echo, complain=complain)
    name = camera_name(camera, bundle) or "send"
    if over_mqtt:
        settings = camera_settings(mqtt_host, mqtt_port, bundle)
        fine = asyncio.run(send_over_mqtt(pictures, sending, settings=settings, camera=name))
    else:
        fine = asyncio.run(send_over_http(pictures, sending, url=url, key=key, camera=name))
    raise typer.Exit(0 if fine else 1)


@app.command()
def recognize(
    pictures: Pictures,
    data: Data = None,
    embedder: Embedder = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print each answer as one line of JSON.")] = False,
) -> None:
    """Recognise the faces in pictures here and now, against the gallery of the data folder; no server is needed."""
    from facewire_standalone.commands.recognize_offline import recognize_files
    from facewire_standalone.settings import StandaloneSettings

    _log_warnings()
    settings = StandaloneSettings.read(data_dir=data, embedder=embedder)
    fine = asyncio.run(recognize_files(pictures, settings, as_json=as_json, write=typer.echo))
    raise typer.Exit(0 if fine else 1)


@app.command()
def watch(url: Url = "http://127.0.0.1:8080", key: Key = None) -> None:
    """Show results in a live table as they come. Ctrl-C ends it."""
    from contextlib import suppress

    from rich.console import Console

    from facewire_standalone.commands.watch import watch as watch_results

    with suppress(KeyboardInterrupt):
        asyncio.run(watch_results(url=url, key=key, console=Console(), errors=Console(stderr=True)))


@app.command()
def demo() -> None:
    """Start everything in a temporary folder, recognise two people over MQTT and HTTP, and check every answer."""
    from rich.console import Console

    from facewire_standalone.commands.demo import run_demo

    _log_warnings()
    raise typer.Exit(0 if run_demo(Console()) else 1)


@app.command()
def version() -> None:
    """Print the version."""
    from importlib.metadata import version as installed_version

    typer.echo(f"facewire {installed_version('facewire')}")
