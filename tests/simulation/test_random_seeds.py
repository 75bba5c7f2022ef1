"""Whatever goes wrong, in whatever order: the invariants hold at the end. A seed says what and in which order."""

import asyncio
import os
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import pytest

from tests.simulation.actors import Client
from tests.simulation.checks import violations
from tests.simulation.envoys import Envoy, Habits
from tests.simulation.one_thread import one_thread
from tests.simulation.operators import Operator, Retirement
from tests.simulation.researchers import Researcher, Submission
from tests.simulation.storms import Storm

FEW, SEEDS, MANY = 24, 500, 10_000
"""What everybody runs, what is run before a change lands, and what a campaign runs."""
SHARES = 4
New = Callable[[], str]

TRAIN = '  - {name: train, kind: train, function: "work:train"}'
VALIDATE = '  - {name: validate, kind: validate, function: "work:validate"}'
STRAGGLERS = ["", "min_collaborators: 1", "min_collaborators: 1\ncutoff: 60", "percentage: 0.5", "over_selection: 1"]


def clients_of(seed: int) -> tuple[list[Client], list[Submission]]:
    """Make up a small federation."""
    chance = random.Random(f"federation {seed}")
    names = ["a", "b", "c"][: chance.choice((1, 2, 2, 2, 3))]
    submissions = []
    for number in range(chance.choice((1, 1, 1, 2))):
        tasks = [TRAIN] if chance.random() < 0.6 else [TRAIN, VALIDATE]
        lines = [f"rounds: {chance.choice((1, 1, 2))}", chance.choice(STRAGGLERS), "tasks:", *tasks]
        submissions.append(
            Submission(
                name=f"experiment-{number}",
                envoys=sorted(chance.sample(names, chance.randint(1, len(names)))),
                plan="\n".join(lines),
                elements=chance.choice((8, 8, 1500)),
                cancelled_by=chance.choice(names) if chance.random() < 0.15 else None,
            )
        )
    rounds = [(submission, number) for submission in submissions for number in (1, 2)]
    late = [each for each in rounds if "cutoff" in each[0].plan and len(each[0].envoys) > 1 and chance.random() < 0.3]
    failing = [each for each in rounds if chance.random() < 0.05]
    habits = Habits(late=named(late), fails=named(failing))
    presence = random.Random(f"presence {seed}")
    leaves = {name: named(each for each in rounds if presence.random() < 0.15) for name in names}
    envoys = [Envoy(name, replace(habits if name == names[-1] else Habits(), leaves=leaves[name])) for name in names]
    # One that is always late has its round go on without it, for which another one must stay.
    free = names[-1:] if late else names
    operators = [Operator("operator", retirements(presence, free))] if presence.random() < 0.4 else []
    return [*envoys, *operators, Researcher("researcher", list(submissions))], submissions


def retirements(chance: random.Random, names: Sequence[str]) -> list[Retirement]:
    """Make up which envoys are retired, when, and for how long."""
    return [
        Retirement(
            envoy=chance.choice(names),
            after_seconds=chance.choice((0, 5, 30, 90)) * chance.random(),
            for_seconds=chance.choice((1, 30, 400)),
        )
        for _ in range(chance.choice((1, 1, 2)))
    ]


def named(rounds: Iterable[tuple[Submission, int]]) -> frozenset[tuple[str, int]]:
    """Return the names of experiments, and their rounds."""
    return frozenset((submission.name, number) for submission, number in rounds)


async def weather(url: str, seed: int) -> tuple[list[str], Storm]:
    """Run one seed; return what is wrong in the end."""
    clients, submissions = clients_of(seed)
    storm = Storm(url, clients, seed=seed)
    try:
        await storm.run()
        assert storm.ruler is not None
        return await storm.turnstile.usher(violations(storm.ruler.db, clients, submissions)), storm
    finally:
        await storm.close()


def failing(new_sqlite: New, seeds: Iterable[int]) -> dict[str, list[str]]:
    """Run seeds; return those that fail, by how to run them again."""
    failed = {}
    for seed in seeds:
        with one_thread():
            try:
                said, _ = asyncio.run(weather(new_sqlite(), seed))
            except Exception as error:
                error.add_note(f"run it again: DIRECTOR_SEED={seed}")
                raise
        if said:
            failed[f"DIRECTOR_SEED={seed}"] = said
    return failed


def of_share(share: int, seeds: range) -> Iterable[int]:
    """Return a worker's part of the seeds, or the one that is to be run again."""
    if (again := os.environ.get("DIRECTOR_SEED")) is not None:
        return [int(again)] if share == 0 else []
    return seeds[share::SHARES]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("share", range(SHARES))
def test_invariants_hold_whatever_goes_wrong(share: int, new_sqlite: New) -> None:
    assert not failing(new_sqlite, of_share(share, range(FEW)))


@pytest.mark.system
@pytest.mark.timeout(600)
@pytest.mark.parametrize("share", range(SHARES))
def test_invariants_hold_on_more_seeds(share: int, new_sqlite: New) -> None:
    assert not failing(new_sqlite, of_share(share, range(FEW, SEEDS)))


@pytest.mark.campaign
@pytest.mark.timeout(36_000)
@pytest.mark.parametrize("share", range(SHARES))
def test_invariants_hold_on_many_seeds(share: int, new_sqlite: New) -> None:
    seeds = range(SEEDS, int(os.environ.get("DIRECTOR_SEEDS", MANY)))

    assert not failing(new_sqlite, of_share(share, seeds))
