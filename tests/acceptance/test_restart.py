"""Processes that are killed in the middle of a round, and what that changes: nothing but the time it takes."""

import os
import signal
from collections import Counter

import psutil
import pytest

from tests.acceptance.databases import Database
from tests.acceptance.material import ROUNDS, WARDS, lay_out, start_envoy, start_envoys, submit
from tests.acceptance.processes import Machine, Running, eventually
from tests.simulation.endings import Ending, differences
from tests.tables import event_rows, round_rows

GATED = 2
"""The round in which rome's training does not end before the test lets it."""


class Federation:
    """A federation whose experiment stands still in the middle of a round."""

    def __init__(self, machine: Machine, url: str, *, plan: str = "") -> None:
        self.machine, self.database = machine, Database(url)
        machine.environment["DIRECTOR_LEASE"] = "2"  # so that a killed director soon counts as dead
        self.gate = machine.folder / "gate"
        self.wards = WARDS | {"rome": WARDS["rome"].gated(self.gate, round_number=GATED)}
        lay_out(machine.folder, more=plan)
        self.director = self.serve()
        self.envoys = start_envoys(machine, self.wards)
        machine.say(*submit("first"))
        eventually(lambda: self.database.is_half_way(GATED), "oslo has done its part of the round")

    def serve(self) -> Running:
        """Start a director, on the port of the one before."""
        self.director = self.machine.serve("--database", self.database.url)
        return self.director

    def finish(self) -> None:
        """Open the gate, and follow the experiment to its end."""
        self.gate.touch()
        self.machine.say("experiment", "metrics", "first", "--follow", "--patience", "60")

    def happened(self) -> Counter[str]:
        """Count what the events tell."""
        return Counter(event.kind for event in self.database.ask(event_rows.everything))


@pytest.fixture
def federation(machine: Machine, migrated_url: str) -> Federation:
    return Federation(machine, migrated_url)


@pytest.mark.parametrize("how", ["killed", "stopped"])
def test_director_that_is_gone_in_a_round_is_replaced_and_nothing_is_lost(
    federation: Federation, undisturbed: Ending, how: str
) -> None:
    if how == "killed":
        federation.director.kill()
    else:
        assert federation.director.stop() == 0
    federation.serve()
    federation.finish()

    assert not differences(federation.database.ending(), undisturbed)
    happened = federation.happened()
    assert (happened["director_started"], happened["experiment_claimed"]) == (2, 2)
    assert (happened["director_reaped"], happened["director_stopped"]) == ((1, 0) if how == "killed" else (0, 1))
    assert happened["contribution_received"] == len(WARDS) * (2 * ROUNDS + 1)
    assert federation.database.ask(round_rows.attempts) == [("oslo", 1), ("rome", 1)]


@pytest.mark.parametrize("engine_kind", ["sqlite"], indirect=True)
def test_envoy_that_was_killed_at_work_is_given_its_task_again(federation: Federation, undisturbed: Ending) -> None:
    rome = federation.envoys["rome"]
    [worker] = psutil.Process(rome.process.pid).children()

    rome.kill()
    worker.wait(10)
    start_envoy(federation.machine, "rome", federation.wards["rome"])
    federation.finish()

    assert not differences(federation.database.ending(), undisturbed)
    attempts = federation.database.ask(round_rows.attempts)
    assert attempts == [("oslo", 1), ("rome", 2)]


@pytest.mark.parametrize("engine_kind", ["postgresql"], indirect=True)
def test_worker_that_was_killed_is_a_failure_of_its_envoy_alone(machine: Machine, migrated_url: str) -> None:
    federation = Federation(machine, migrated_url, plan="min_collaborators: 1\n")
    [worker] = psutil.Process(federation.envoys["rome"].process.pid).children()

    os.kill(worker.pid, signal.SIGKILL)
    federation.finish()

    shown = machine.ask("experiment", "show", "first")
    oslo, rome = machine.ask("experiment", "collaborators", "first")
    assert (shown["state"], oslo["state"], rome["state"]) == ("finished", "done", "failed")
    assert (
        rome["failure"]["message"]
        == "the worker ended by itself, killed by SIGKILL; the machine may have run out of memory"
    )
    assert machine.say(*submit("second"), "--wait") == "experiment second is finished\n"
