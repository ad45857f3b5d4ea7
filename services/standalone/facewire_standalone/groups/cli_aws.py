"""`facewire aws`: what Facewire needs to find in AWS, or in what stands in for it."""
# ruff: noqa: PLC0415 - as in cli.py

import asyncio
from typing import Annotated

import typer

app = typer.Typer(help="Prepare AWS, or what stands in for it.", no_args_is_help=True)


@app.callback()
def aws() -> None:
    """Prepare AWS, or what stands in for it."""


@app.command()
def init(
    wait: Annotated[float, typer.Option(help="Seconds to wait for AWS to answer.")] = 60.0,
) -> None:
    """Make the queues with their dead letters, the bucket and, with FACEWIRE_STORE=dynamodb, the tables.

    What is there already stays as it is. Names, region and endpoint come from FACEWIRE_REQUEST_QUEUE, _RESPONSE_QUEUE,
    _BUCKET, _TABLE, _GALLERY_TABLE, _REGION and _AWS_ENDPOINT_URL, credentials from where every AWS client looks for
    them.
    """
    from facewire.runtime.settings import StoreSettings
    from facewire_standalone.commands.aws import init_aws

    asyncio.run(init_aws(StoreSettings.read(), wait_seconds=wait, write=typer.echo))
