"""`director db`: the database itself, without a director."""

import asyncio
from pathlib import Path

import click

from director.cli.database_option import database_option, database_url
from director.cli.options import json_option
from director.cli.output import show_json, text


@click.group()
def db() -> None:
    """Look after the database."""


@db.command()
@database_option
def upgrade(database: str | None) -> None:
    """Bring the schema up to this version; a new database gets one."""
    from director.store.engine import schema

    url = database_url(database)
    before, after = asyncio.run(schema.upgraded(url))
    if before == after:
        click.echo(f"the schema is {after} already")
    else:
        click.echo(f"the schema is {after} now; it was {before or 'not there'}")


@db.command()
@database_option
@json_option
def current(database: str | None, as_json: bool) -> None:
    """Say which schema the database has, and which this version needs."""
    from director.services import maintenance
    from director.store.engine import schema

    url = database_url(database)
    maintenance.require_file(url)
    found, head = asyncio.run(schema.current(url)), schema.head()
    if as_json:
        show_json({"schema": found, "needed": head})
    else:
        click.echo(f"the schema is {found or 'not there'}; this version needs {head}")


@db.command()
@database_option
@json_option
@click.pass_context
def check(context: click.Context, database: str | None, as_json: bool) -> None:
    """Check the schema, and whether commits are durable; changes nothing. Status 1 if something is wrong."""
    from director.services import maintenance

    findings = asyncio.run(maintenance.check(database_url(database)))
    if as_json:
        show_json(findings)
    else:
        for finding in findings:
            click.echo(f"{'ok   ' if finding.ok else 'WRONG'}  {finding.text}")
    if not all(finding.ok for finding in findings):
        context.exit(1)


@db.command()
@database_option
@json_option
@click.pass_context
def fsck(context: click.Context, database: str | None, as_json: bool) -> None:
    """Check that the stored data keep every invariant; changes nothing. Status 1 and a line for each finding.

    Directors may run meanwhile.
    """
    from director.services import maintenance

    report = asyncio.run(maintenance.fsck(database_url(database)))
    if as_json:
        show_json(report)
    else:
        for finding in report.findings:
            click.echo(f"{finding.check}: {text(finding.text)}")
        if not report.findings:
            click.echo(f"{report.checks} checks, nothing found")
    if report.findings:
        context.exit(1)


@db.command()
@database_option
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FILE|DIR",
    help="A new file, or a directory to put one in.",
)
@json_option
def backup(database: str | None, output: Path, as_json: bool) -> None:
    """Back the database up as of this moment; directors go on working meanwhile.

    On SQLite the backup is a database on which a director may be started. On PostgreSQL it is what
    `pg_dump --format=custom` writes: restore it with `pg_restore`, then run `director db new-epoch` on it before you
    start a director.
    """
    from director.services import backups

    file = asyncio.run(backups.backup(database_url(database), output))
    size = file.stat().st_size
    if as_json:
        show_json({"file": str(file), "size_bytes": size})
    else:
        click.echo(f"{file} ({size} bytes)")


@db.command(name="new-epoch")
@database_option
@json_option
def new_epoch(database: str | None, as_json: bool) -> None:
    """Begin a new epoch; run it on a restored database, before you start a director.

    Readers start their streams from the beginning, every fence is raised, and all previous ownership is revoked.
    """
    from director.services import backups

    epoch = asyncio.run(backups.new_epoch(database_url(database)))
    if as_json:
        show_json({"epoch": epoch.token, "directors": epoch.directors, "experiments": epoch.experiments})
    else:
        click.echo(
            f"epoch {epoch.token}: {epoch.directors} directors declared dead, {epoch.experiments} experiments freed"
        )
