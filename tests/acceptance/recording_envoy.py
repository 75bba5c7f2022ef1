"""`director envoy`, with a ledger: whatever a director acknowledged is a line of it, written when the answer came.

Its `main` takes the arguments of `director`; the variable LEDGER names the file.
"""

import json
import os
from pathlib import Path

from director.cli import main as command_line
from director.domain.commands import Contribute
from director.envoy import agent
from director.envoy.director_client import DirectorClient


class RecordingClient(DirectorClient):
    """Calls the director, and keeps the ledger."""

    async def contribute(self, result: Contribute, update: Path | None) -> None:
        """Contribute; when this returns it is stored, and in the ledger too."""
        await super().contribute(result, update)
        digest = None if result.update is None else result.update.digest
        record(result.experiment_uid, result.round_number, result.envoy, result.task, result.samples, digest)


def record(*entry: object) -> None:
    """Add a line to the ledger."""
    with Path(os.environ["LEDGER"]).open("a") as ledger:
        ledger.write(json.dumps(entry) + "\n")


def main() -> None:
    """Run the envoy."""
    agent.DirectorClient = RecordingClient  # type: ignore[misc]
    command_line.main()
