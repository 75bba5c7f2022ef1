"""`director report`: the reporting views, for those who do not write SQL."""

import asyncio

import click

from director.cli.database_option import database_option, database_url
from director.cli.options import json_option
from director.cli.output import show_json, show_table

NAMES = ("experiments", "rounds", "contributions", "metrics", "envoy_uptime", "failures")


@click.command()
@click.argument("name", type=click.Choice(NAMES), default="experiments", metavar="[NAME]")
@click.option("--experiment", metavar="EXPERIMENT", help="Only of this experiment, by its name or its uid.")
@click.option("--limit", type=click.IntRange(1), default=1000, show_default=True, help="At most so many rows.")
@database_option
@json_option
def report(name: str, experiment: str | None, limit: int, database: str | None, as_json: bool) -> None:
    """Report from the database: the view report_NAME, which plain SQL reads as well.

    NAME is experiments (the default), rounds, contributions, metrics, envoy_uptime or failures. The columns are
    described in docs/reference/sql.md.
    """
    from director.services import maintenance

    found = asyncio.run(maintenance.report(database_url(database), name, experiment=experiment, limit=limit))
    if as_json:
        show_json([dict(zip(found.columns, row, strict=True)) for row in found.rows])
    else:
        show_table(found.columns, found.rows, empty="nothing to report")
