"""What the commands share that work on the database itself."""

from collections.abc import Callable
from typing import Any

import click

from director.settings import load_settings


def database_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --database to a command."""
    return click.option(
        "--database",
        metavar="URL",
        help="sqlite:///file.db or postgresql://user@host/db; DIRECTOR_DATABASE.  [default: sqlite:///director.db]",
    )(command)


def database_url(given: str | None) -> str:
    """Return the URL given, or the one of the environment, or the default."""
    return load_settings(database=given).database
