"""`director serve`: one director process."""

import asyncio
import logging
import sys
from pathlib import Path

import click

from director import bootstrap
from director.errors import InvalidArgument
from director.settings import load_settings


@click.command()
@click.option(
    "--database",
    metavar="URL",
    help="sqlite:///file.db or postgresql://user@host/db.  [default: sqlite:///director.db]",
)
@click.option("--listen", metavar="HOST:PORT", help="Address to listen on.  [default: 127.0.0.1:50051]")
@click.option(
    "--director-config-path",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="YAML file with a mapping `settings`.",
)
@click.option("--root-certificate", metavar="FILE", help="CA that clients' certificates are checked against (PEM).")
@click.option("--certificate", metavar="FILE", help="The director's certificate chain (PEM).")
@click.option("--private-key", metavar="FILE", help="The director's private key (PEM).")
@click.option("--insecure", is_flag=True, default=None, help="Listen without TLS on other addresses than loopback.")
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="How much goes to standard error.",
)
def serve(
    database: str | None,
    listen: str | None,
    director_config_path: Path | None,
    root_certificate: str | None,
    certificate: str | None,
    private_key: str | None,
    insecure: bool | None,
    log_level: str,
) -> None:
    """Run a director until it is told to stop (SIGTERM, Ctrl-C).

    On SQLite the database is made and upgraded by itself; on PostgreSQL `director db upgrade` does that, and any
    number of directors may serve one database. Settings come from the options, then DIRECTOR_* in the environment,
    then the file.
    """
    logging.basicConfig(
        level=log_level.upper(), stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    logging.getLogger("alembic").setLevel(logging.WARNING)  # what it did to the schema is said in our own words
    host, port = split_address(listen) if listen is not None else (None, None)
    settings = load_settings(
        director_config_path,
        database=database,
        listen_host=host,
        listen_port=port,
        root_certificate=root_certificate,
        certificate=certificate,
        private_key=private_key,
        insecure=insecure,
    )
    asyncio.run(bootstrap.serve(settings, ready=lambda address: click.echo(f"director ready on {address}")))


def split_address(address: str) -> tuple[str, int]:
    """Split HOST:PORT.

    Raises:
        InvalidArgument: it is none.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdigit() or int(port) > 65535:
        raise InvalidArgument(f"{address!r} is no address; expected HOST:PORT, as 127.0.0.1:50051")
    return host.strip("[]"), int(port)
