"""`facewire init`: all that the containers need before they start."""
# ruff: noqa: PLC0415 - as in cli.py

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from facewire_standalone.groups.cli_certs import Pki

Names = Annotated[
    list[str] | None,
    typer.Option(
        "--name",
        metavar="HOST",
        envvar="FACEWIRE_BROKER_NAMES",
        help="A further host name or address of the broker, for cameras elsewhere; may be given more than once.",
    ),
]


def init(
    pki: Pki,
    certs: Annotated[Path, typer.Option(envvar="FACEWIRE_CERTS_DIR", help="Folder of the certificates, by role.")],
    keys: Annotated[Path, typer.Option(envvar="FACEWIRE_KEYS_FILE", help="File of the keys of the HTTP API.")],
    name: Names = None,
    wait: Annotated[float, typer.Option(help="Seconds to wait for AWS to answer.")] = 60.0,
) -> None:
    """Prepare a deployment: a file of keys, the certificates, then queues and bucket (and table) in AWS.

    May run again at any time: what is there stays, certificates that end within 30 days are renewed. The file of keys
    is made without a key in it: `facewire keys add` makes one and shows it to you alone.
    """
    from facewire.adapters.mqtt.certificate_folders import prepare
    from facewire.runtime.settings import StoreSettings
    from facewire_gateway.api.auth import create_keys_file
    from facewire_standalone.commands.aws import init_aws

    settings = StoreSettings.read()
    typer.echo(f"{keys}: {'made' if create_keys_file(keys) else 'kept'}")
    for outcome in prepare(pki, certs, name or ()):
        reason = f": {outcome.reason}" if outcome.reason else ""
        typer.echo(f"{outcome.path}: {outcome.did}{reason}")
    asyncio.run(init_aws(settings, wait_seconds=wait, write=typer.echo))
