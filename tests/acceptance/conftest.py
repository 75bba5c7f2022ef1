"""What the acceptance tests start from: a machine, and how an undisturbed federation ends."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.databases import Database
from tests.acceptance.material import lay_out, start_envoys, submit
from tests.acceptance.processes import Machine
from tests.simulation.endings import Ending


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """A machine with nothing running, used by the researcher `ada`."""
    with Machine(tmp_path, {"DIRECTOR_CLIENT_ID": "ada"}) as machine:
        yield machine


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Ending:
    """How the experiment of these tests ends where nobody is killed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with Machine(folder, {"DIRECTOR_CLIENT_ID": "ada"}) as machine:
        lay_out(folder)
        machine.serve()
        start_envoys(machine)
        machine.say(*submit("first"), "--wait")
    return Database(f"sqlite:///{folder / 'director.db'}").ending()
