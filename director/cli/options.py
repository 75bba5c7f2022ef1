"""Options that commands share: which federation, who asks, and JSON instead of tables."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from director.errors import InvalidArgument

if TYPE_CHECKING:
    from director.domain.history import Cursor

Command = TypeVar("Command", bound=Callable[..., Any])

PEM = click.Path(dir_okay=False, path_type=Path)

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")

address_option = click.option(
    "--director",
    envvar="DIRECTOR_ADDRESS",
    default="127.0.0.1:50051",
    show_default=True,
    show_envvar=True,
    metavar="HOST:PORT[,…]",
    help="Address of the director; several are replicas.",
)


def cursor(written: str) -> "Cursor":
    """Read a cursor.

    Raises:
        click.BadParameter: it is something else.
    """
    from director.domain.history import Cursor

    try:
        return Cursor.parse(written)
    except InvalidArgument as error:
        raise click.BadParameter(str(error)) from error


after_option = click.option(
    "--after", type=cursor, metavar="CURSOR", help="Begin behind this one; --json prints the cursor of each."
)

follow_option = click.option(
    "--follow", is_flag=True, help="Go on until the experiment has ended, also while directors stop and start."
)


def tls_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command `tls`: TlsFiles, or None without TLS."""

    @pem_option("--root-certificate", "CA that the director's certificate is checked against.")
    @pem_option("--certificate", "Your certificate; you are who it names.")
    @pem_option("--private-key", "Your private key.")
    @functools.wraps(command)
    def run(
        *args: Any, root_certificate: Path | None, certificate: Path | None, private_key: Path | None, **options: Any
    ) -> Any:
        from director.wire.channels import TlsFiles

        try:
            tls = TlsFiles.of(root_certificate, certificate, private_key)
        except InvalidArgument as error:
            raise click.UsageError(str(error)) from error
        return command(*args, tls=tls, **options)

    return run


def pem_option(name: str, text: str) -> Callable[[Command], Command]:
    """Add an option that names a PEM file, and its environment variable."""
    variable = f"DIRECTOR_{name.removeprefix('--').replace('-', '_').upper()}"
    return click.option(name, type=PEM, envvar=variable, show_envvar=True, metavar="FILE", help=text)


def connected(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command `federation`, an open connection, and the options that name the director and the caller."""

    @address_option
    @tls_options
    @click.option(
        "--client-id",
        envvar="DIRECTOR_CLIENT_ID",
        default="",
        show_envvar=True,
        metavar="NAME",
        help="Who you are, without TLS.  [default: your login name]",
    )
    @click.option(
        "--patience",
        envvar="DIRECTOR_PATIENCE",
        type=click.FloatRange(min=0),
        default=10.0,
        show_default=True,
        show_envvar=True,
        metavar="SECONDS",
        help="How long to go on trying while no director answers, or while it asks to come back later.",
    )
    @functools.wraps(command)
    def run(*args: Any, director: str, tls: Any, client_id: str, patience: float, **options: Any) -> Any:
        from director.client import Federation

        with Federation(director, tls=tls, client_id=client_id, patience=patience) as federation:
            return command(*args, federation=federation, **options)

    return run
