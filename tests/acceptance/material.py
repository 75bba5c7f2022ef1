"""What the federations of these tests train: a few numbers, so that every model can be reckoned by hand.

Each round halves the model and adds the value of the envoy's ward. Values and samples are chosen so that all sums are
exact: whoever averages rightly gets the same bits. A ward may have a gate, a file without which its training of one
round does not end: so a test decides when.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import safetensors.numpy

from director.domain.types import Array
from tests.acceptance.processes import DIRECTOR, Machine, Running

SHARD = """
import time
from pathlib import Path

from director.envoy import ShardDescriptor


class Ward(ShardDescriptor):
    def __init__(self, value, count, gate=None, gated_round=0, slow=0.0):
        self.value, self.samples = value, count
        self._gate, self._gated_round, self._slow = gate, gated_round, slow

    samples = 0
    sample_shape = (3,)
    target_shape = ()
    dataset_description = "numbers"

    def get_dataset(self, kind):
        return self.value

    def wait(self, round_number):
        time.sleep(self._slow)
        while self._gate and round_number == self._gated_round and not Path(self._gate).exists():
            time.sleep(0.01)
"""
CODE = """
def train(model, shard, round_number, settings):
    shard.wait(round_number)
    value = shard.get_dataset("train")
    trained = {name: (values / 2 + value).astype(values.dtype) for name, values in model.items()}
    return trained, shard.samples, {"value": value}


def validate(model, shard, round_number, settings):
    return shard.samples, {"closeness": 0.0 - abs(float(model["weights"][0]) - settings["aim"])}
"""
ROUNDS = 3
PLAN = """
rounds: {rounds}
tasks:
  - {{name: train, kind: train, function: "work:train"}}
  - {{name: validate, kind: validate, function: "work:validate", settings: {{aim: 3.5}}}}
"""
INITIAL: Mapping[str, Array] = {"weights": np.zeros(4, np.float32), "bias": np.full((2, 3), 0.5, np.float64)}
BEST = 2
"""Model 2 comes closest to the aim: the first numbers are 0, 2.5, 3.75 and 4.375."""


@dataclass(frozen=True)
class Ward:
    """What one envoy holds."""

    value: float
    count: int
    gate: str | None = None
    gated_round: int = 0
    slow: float = 0.0

    @property
    def options(self) -> list[str]:
        """The options of `director envoy` that name it."""
        return ["--shard", "wards:Ward", "--shard-params", json.dumps(vars(self))]

    def gated(self, gate: Path, *, round_number: int) -> "Ward":
        """Return it with a gate."""
        return replace(self, gate=str(gate), gated_round=round_number)


WARDS = {"oslo": Ward(value=1.0, count=10), "rome": Ward(value=3.0, count=30)}


def lay_out(folder: Path, *, workspace: str = "workspace", rounds: int = ROUNDS, more: str = "") -> None:
    """Write the wards' class, a workspace and an initial model; `more` goes to the end of its plan."""
    (folder / "wards.py").write_text(SHARD)
    (folder / workspace / "plan").mkdir(parents=True)
    (folder / workspace / "plan" / "plan.yaml").write_text(PLAN.format(rounds=rounds) + more)
    (folder / workspace / "work.py").write_text(CODE)
    safetensors.numpy.save_file(dict(INITIAL), folder / "initial.safetensors")


def submit(name: str, *, workspace: str = "workspace", envoys: Iterable[str] = tuple(WARDS)) -> list[str]:
    """Return the command that submits what was laid out."""
    what = ["--workspace", workspace, "--model", "initial.safetensors", "--collaborators", ",".join(envoys)]
    return ["experiment", "submit", name, *what]


def start_envoys(
    machine: Machine,
    wards: Mapping[str, Ward] = WARDS,
    *,
    options: Callable[[str], Sequence[str]] = lambda _name: (),
    program: str = DIRECTOR,
) -> dict[str, Running]:
    """Start envoys, each with options of its own, and wait until they are registered."""
    started = {name: start_envoy(machine, name, ward, *options(name), program=program) for name, ward in wards.items()}
    for envoy in started.values():
        envoy.wait_for("is registered")
    return started


def start_envoy(machine: Machine, name: str, ward: Ward, *options: str, program: str = DIRECTOR) -> Running:
    """Start an envoy."""
    return machine.start(name, "envoy", "--name", name, *ward.options, *options, program=program)


def expected_model(number: int) -> dict[str, Array]:
    """Return the result of a round, reckoned by hand."""
    total = sum(ward.count for ward in WARDS.values())
    mean = math.fsum(ward.value * ward.count for ward in WARDS.values()) / total
    model = dict(INITIAL)
    for _ in range(number):
        model = {name: (values / 2 + mean).astype(values.dtype) for name, values in model.items()}
    return model
