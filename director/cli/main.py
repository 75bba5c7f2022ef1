"""`director`: its commands by name, imported when they are run, and how their errors are shown.

Exit status: 0 on success, 1 on failure with one line on standard error, 2 on wrong usage, 130 on Ctrl-C.
"""

import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import NamedTuple, NoReturn

import click

from director.errors import DirectorError
from director.version import __version__


class Lazy(NamedTuple):
    """A command that is not imported yet: where it is, and what it does in a line."""

    place: str
    summary: str


COMMANDS: Mapping[str, Lazy] = {
    "serve": Lazy("director.cli.serve_command:serve", "Run a director."),
    "demo": Lazy("director.cli.demo_command:demo", "Run a whole federation on real data, here and now."),
    "envoy": Lazy("director.cli.envoy_command:envoy", "Offer a shard to a federation and train on it."),
    "experiment": Lazy(
        "director.cli.experiment_commands:experiment", "Submit experiments, follow them, fetch their models."
    ),
    "envoys": Lazy("director.cli.federation_commands:envoys", "List the envoys and whether they are online."),
    "why": Lazy("director.cli.federation_commands:why", "Say what an experiment waits for."),
    "db": Lazy("director.cli.db_commands:db", "Look after the database."),
    "report": Lazy("director.cli.report_command:report", "Report on experiments, rounds and envoys from the database."),
}

INTERRUPTED = 130


class LazyGroup(click.Group):
    """A group that knows its commands by name and imports only the one that is run."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names, in the order of the table."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command; None if no command has this name."""
        del ctx
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name].place.partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing any."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.summary) for name, command in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="director")
def director() -> None:
    """The durable control plane of federated learning."""


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit status."""
    try:
        status = director.main(arguments, prog_name="director", standalone_mode=False)
    except click.Abort:
        return INTERRUPTED
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except DirectorError as error:
        return failed(str(error))
    except OSError as error:
        return failed(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except Exception:
        traceback.print_exc()
        return failed("that is a defect of the director; please report it with the lines above")
    return status if isinstance(status, int) else 0


def failed(reason: str) -> int:
    """Say on one line why, and return the status of a failure."""
    click.echo(f"Error: {' '.join(reason.split())}", err=True)
    return 1


def main() -> NoReturn:
    """Run the command line of this process."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # our errors say what its core would write to standard error
    sys.exit(run())


if __name__ == "__main__":
    main()
