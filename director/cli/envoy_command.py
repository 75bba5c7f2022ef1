"""`director envoy`: the agent at a data owner's site."""

import json
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from director.cli.options import address_option, tls_options

if TYPE_CHECKING:
    from director.wire.channels import TlsFiles


def json_object(text: str) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        click.BadParameter: the text is not a JSON object.
    """
    try:
        found = json.loads(text)
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise click.BadParameter(f"{text!r} is not a JSON object")
    return found


@click.command()
@click.option("--name", required=True, help="The envoy's name; with TLS, its certificate's common name.")
@click.option(
    "--shard",
    "reference",
    required=True,
    metavar="MODULE:CLASS",
    help="The data set: a class derived from director.envoy.ShardDescriptor. The current directory is searched first.",
)
@click.option(
    "--shard-params",
    type=json_object,
    default="{}",
    metavar="JSON",
    help='Arguments of the class, such as \'{"path": "/data"}\'.',
)
@address_option
@tls_options
@click.option(
    "--directory",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Where experiments are unpacked, for this envoy alone.  [default: a temporary directory]",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="How much goes to standard error.",
)
def envoy(
    name: str,
    reference: str,
    shard_params: dict[str, Any],
    director: str,
    tls: "TlsFiles | None",
    directory: Path | None,
    log_level: str,
) -> None:
    """Offer a shard to a federation, and train on it what the director asks for.

    Runs until it is told to stop (SIGTERM, Ctrl-C); then it says goodbye to the director. It survives restarts of the
    director and outages of any length. An experiment's code runs in a process and a directory of its own, with the
    rights of this process.
    """
    from director.envoy import EnvoyAgent, ShardSpec

    logging.basicConfig(
        level=log_level.upper(), stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    sys.path.insert(0, os.getcwd())
    EnvoyAgent(
        name, ShardSpec(reference, shard_params), director=director, tls=tls, directory=directory
    ).serve_forever()
