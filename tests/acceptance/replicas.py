"""A federation with several directors on one PostgreSQL: real processes, whose envoys keep a ledger."""

import json
import os
import signal
from collections.abc import Mapping, Sequence
from typing import Any

from director.demo.stage import READY, first_line
from tests.acceptance.databases import Database
from tests.acceptance.material import WARDS, Ward, expected_model, lay_out, start_envoys, submit
from tests.acceptance.processes import Machine, Running, eventually, free_address
from tests.tables import event_rows, experiment_rows, outcome_rows, presence_rows, result_rows
from tests.world import content_of, payload_of

SAME = {"bern": WARDS["oslo"], "lima": WARDS["rome"]}
"""Two more wards with the same data, so that experiments of either pair make the same models."""
SLOWLY = {name: Ward(ward.value, ward.count, slow=0.1) for name, ward in (WARDS | SAME).items()}
RECORDING = "tests.acceptance.recording_envoy"


class Replicas:
    """Directors, each of which is known by its id; envoys and users know the addresses of all."""

    def __init__(
        self, machine: Machine, url: str, *, directors: int, lease: float, rounds: int, plan: str = ""
    ) -> None:
        self.machine, self.database = machine, Database(url)
        self.ledger, self.rounds = machine.folder / "ledger", rounds
        self.addresses = [free_address() for _ in range(directors)]
        machine.environment |= {"LEDGER": str(self.ledger), "DIRECTOR_LEASE": str(lease)}
        machine.environment |= {"DIRECTOR_ADDRESS": ",".join(self.addresses)}
        lay_out(machine.folder, rounds=rounds, more=plan)
        self.directors: dict[str, Running] = {}
        self.listening: dict[str, str] = {}
        for address in self.addresses:
            self.start_director(address)
        self.experiments: dict[str, Sequence[str]] = {}

    def start_director(self, address: str) -> str:
        """Start a director, wait until it is ready, and return its id."""
        before = set(self.database.ask(presence_rows.directors))
        log = f"director-{self.addresses.index(address)}"
        options = ["--listen", address, "--database", self.database.url]
        started = self.machine.start(log, "serve", *options, piped=True)
        line = first_line(started.process)
        assert line.startswith(READY), f"it says {line!r} and logs {started.lines}"
        [new] = set(self.database.ask(presence_rows.directors)) - before
        self.directors[new], self.listening[new] = started, address
        return str(new)

    def start_envoys(self, wards: Mapping[str, Ward], *, but: str = "") -> dict[str, Running]:
        """Start envoys, each of which prefers another director; but for one whose address they are not given."""
        addresses = [address for address in self.addresses if address != but]
        turn = {name: number % len(addresses) for number, name in enumerate(wards)}

        def options(name: str) -> list[str]:
            return ["--director", ",".join(addresses[turn[name] :] + addresses[: turn[name]])]

        return start_envoys(self.machine, wards, options=options, program=RECORDING)

    def submit(self, name: str, envoys: Sequence[str] = tuple(WARDS)) -> None:
        """Submit an experiment."""
        self.machine.say(*submit(name, envoys=envoys))
        self.experiments[name] = envoys

    def owner(self, name: str) -> str:
        """Return who owns an experiment, as soon as somebody does."""
        [found] = eventually(lambda: self.database.ask(experiment_rows.owner, name), f"somebody owns {name}")
        return str(found)

    def reached(self, round_number: int) -> None:
        """Wait until every experiment is in a round, or past it."""
        eventually(
            lambda: len(self.database.ask(experiment_rows.in_round, round_number)) == len(self.experiments),
            f"every experiment reaches round {round_number}",
            seconds=60,
        )

    def finish(self, *, seconds: float = 60) -> None:
        """Wait until every experiment has ended."""
        eventually(
            lambda: len(self.database.ask(experiment_rows.ended)) == len(self.experiments),
            "every experiment ends",
            seconds=seconds,
        )

    def happened(self, kind: str) -> list[Any]:
        """Return when something happened to which experiments, and its details."""
        found = [(name, event.at, event.details) for name, event in self.database.ask(event_rows.with_names, kind)]
        return sorted(found, key=lambda each: each[1])

    def owners(self, name: str) -> list[Any]:
        """Return what happened when to who owns an experiment, in order."""
        found = self.database.ask(event_rows.with_names, "experiment_claimed", "experiment_released")
        return [(event.kind, event.at) for experiment, event in found if experiment == name]

    def broken_promises(self) -> list[str]:
        """Compare what is stored with what was acknowledged, and with what is right."""
        ask, said = self.database.ask, []
        for name, state, reason in ask(outcome_rows.unfinished):
            said.append(f"experiment {name} is {state}: {reason}")
        for envoy, state, error in ask(outcome_rows.dropped_out):
            said.append(f"envoy {envoy} is {state}: {error}")
        right = [(number, content_of(payload_of(expected_model(number))).digest) for number in range(self.rounds + 1)]
        for name in self.experiments:
            if ask(outcome_rows.model_digests, name) != right:
                said.append(f"experiment {name} has other models")
        stored = ask(result_rows.receipts)
        expected = sum(len(envoys) * (2 * self.rounds + 1) for envoys in self.experiments.values())
        if len(stored) != expected:
            said.append(f"{len(stored)} results are stored, not {expected}")
        acknowledged = {tuple(json.loads(line)) for line in self.ledger.read_text().splitlines()}
        said += [f"lost: {each}" for each in acknowledged - set(stored)]
        return said + self.machine.ask("db", "fsck", "--database", self.database.url)["findings"]


def begun(machine: Machine, url: str, *, lease: float, rounds: int = 8, directors: int = 3) -> Replicas:
    """Some directors, and two experiments on their way."""
    federation = Replicas(machine, url, directors=directors, lease=lease, rounds=rounds)
    federation.start_envoys(SLOWLY)
    federation.submit("north")
    federation.submit("south", envoys=tuple(SAME))
    federation.reached(2)
    return federation


def pause(director: Running) -> None:
    """Let a process stand still, as a machine that is suspended."""
    os.kill(director.process.pid, signal.SIGSTOP)


def resume(director: Running) -> None:
    """Let it go on, as if nothing had happened."""
    os.kill(director.process.pid, signal.SIGCONT)
