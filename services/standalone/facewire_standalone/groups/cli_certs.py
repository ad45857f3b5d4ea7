"""`facewire certs`: the certificates of the MQTT broker, of the services, and of devices."""
# ruff: noqa: PLC0415 - as in cli.py

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Make the certificates for MQTT over TLS.", no_args_is_help=True)

Pki = Annotated[
    Path,
    typer.Option(envvar="FACEWIRE_PKI_DIR", help="Folder of the CA; whoever can read it can be anybody."),
]


@app.command()
def init(
    pki: Pki,
    certs: Annotated[
        Path,
        typer.Option(envvar="FACEWIRE_CERTS_DIR", help="Folder that gets one folder of certificates for each role."),
    ],
    name: Annotated[
        list[str] | None,
        typer.Option(metavar="HOST", help="A further host name or address of the broker; may be given more than once."),
    ] = None,
) -> None:
    """Make a development CA and the certificates of broker and services; renew those that end within 30 days.

    A CA that is there stays. Services read their certificates when they start.
    """
    from facewire.adapters.mqtt.certificate_folders import prepare

    for outcome in prepare(pki, certs, name or ()):
        reason = f": {outcome.reason}" if outcome.reason else ""
        typer.echo(f"{outcome.path}: {outcome.did}{reason}")


@app.command()
def device(
    name: Annotated[str, typer.Argument(help="The device's name: it sends on clients/NAME and nowhere else.")],
    pki: Pki,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The file to write, readable by its owner alone; - prints it.")
    ] = Path("-"),
) -> None:
    """Make a device's certificate: one PEM file with its key, its certificate and the CA, good for 397 days.

    The one file is CA, certificate and key in one: give it to the device as each of the three. It is kept nowhere
    else.
    """
    from facewire.adapters.mqtt.certificate_folders import open_authority, write_private

    bundle = open_authority(pki).device_bundle(name)
    if output == Path("-"):
        typer.echo(bundle, nl=False)
    else:
        write_private(output, bundle)
        typer.echo(f"{output}: made for {name}")
