"""kill -9 of the director at any instant, again and again: no acknowledged result is lost, none counts twice.

DIRECTOR_KILLS says how often, DIRECTOR_SEED repeats a run.
"""

import json
import os
import random
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.acceptance.databases import Database
from tests.acceptance.material import Ward, lay_out, start_envoys, submit
from tests.acceptance.processes import Machine, eventually
from tests.simulation.endings import Ending, differences
from tests.tables import experiment_rows, result_rows

pytestmark = [pytest.mark.campaign, pytest.mark.timeout(3600)]

KILLS = int(os.environ.get("DIRECTOR_KILLS", "30"))
SEED = int(os.environ.get("DIRECTOR_SEED", str(random.SystemRandom().randrange(1_000_000))))
LONGEST_LIVES_SECONDS = (3.0, 12.0)
"""Some die before they are ready, others at work."""
ROUNDS = 60
WARDS = {
    "bonn": Ward(value=2.0, count=7, slow=0.01),
    "oslo": Ward(value=1.0, count=10, slow=0.02),
    "rome": Ward(value=3.0, count=33, slow=0.03),
}
EXPERIMENTS: Mapping[str, tuple[str, ...]] = {"pair": ("oslo", "rome"), "single": ("bonn",), "wide": tuple(WARDS)}
"""Two run side by side, the third waits for their envoys."""


class Federation:
    """Three experiments, under way."""

    def __init__(self, machine: Machine, url: str) -> None:
        self.machine, self.database = machine, Database(url)
        self.ledger = machine.folder / "ledger"
        machine.environment |= {"LEDGER": str(self.ledger), "DIRECTOR_LEASE": "2"}
        lay_out(machine.folder, rounds=ROUNDS)
        self.director = machine.serve("--database", url)
        start_envoys(machine, WARDS, program="tests.acceptance.recording_envoy")
        for name, envoys in EXPERIMENTS.items():
            machine.say(*submit(name, envoys=envoys))

    def replace_director(self) -> None:
        """Kill the director and start another one in its place, which is not ready for a while."""
        self.director.kill()
        listen, url = self.machine.environment["DIRECTOR_ADDRESS"], self.database.url
        self.director = self.machine.start("director", "serve", "--listen", listen, "--database", url)

    def finish(self) -> None:
        """Wait until every experiment has ended."""
        eventually(
            lambda: len(self.database.ask(experiment_rows.ended)) == len(EXPERIMENTS),
            "every experiment ends",
            seconds=600,
        )

    def acknowledged(self) -> set[tuple[object, ...]]:
        """Return what the envoys were told is stored."""
        return {tuple(json.loads(line)) for line in self.ledger.read_text().splitlines()}


@contextmanager
def under_way(folder: Path, url: str) -> Iterator[Federation]:
    """Run a federation."""
    with Machine(folder, {"DIRECTOR_CLIENT_ID": "ada"}) as machine:
        yield Federation(machine, url)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Ending:
    folder = tmp_path_factory.mktemp("undisturbed")
    with under_way(folder, f"sqlite:///{folder / 'director.db'}") as federation:
        federation.finish()
        return federation.database.ending()


def test_director_killed_at_random_instants_loses_nothing_and_counts_nothing_twice(
    tmp_path: Path, migrated_url: str, undisturbed: Ending
) -> None:
    chance = random.Random(SEED)
    print(f"DIRECTOR_SEED={SEED} DIRECTOR_KILLS={KILLS}")

    with under_way(tmp_path, migrated_url) as federation:
        for number in range(1, KILLS + 1):
            time.sleep(chance.uniform(0, chance.choice(LONGEST_LIVES_SECONDS)))
            assert federation.director.process.poll() is None, "a director died of something else"
            federation.replace_director()
            print(f"kill {number}: {len(federation.acknowledged())} results were acknowledged")
        federation.finish()

        ending = federation.database.ending()
        stored = federation.database.ask(result_rows.receipts)
        found = federation.machine.ask("db", "fsck", "--database", migrated_url)
    assert not differences(ending, undisturbed)
    assert federation.acknowledged() <= set(stored)
    assert len(stored) == sum(len(envoys) * (2 * ROUNDS + 1) for envoys in EXPERIMENTS.values())
    assert found["findings"] == []
