"""Which pending experiments start: in rank order, each envoy in one at a time, and none waits for ever."""

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from director.domain.history import listed
from director.domain.plan import Plan
from director.domain.steps import quorum


@dataclass(frozen=True, slots=True)
class Candidate:
    """A collaborator of a pending experiment.

    Units: absence in service seconds, counted from when the experiment became eligible at the earliest; infinite for
    a collaborator that has failed, because its envoy was retired for example.
    """

    envoy: str
    online: bool
    absence: float

    @property
    def failed(self) -> bool:
        """Whether it takes no part any more, wherever its envoy is."""
        return self.absence == math.inf


@dataclass(frozen=True, slots=True)
class Pending:
    """An experiment that waits to start."""

    id: int
    owner: str
    plan: Plan
    candidates: Sequence[Candidate]

    @property
    def envoys(self) -> frozenset[str]:
        """The envoys that serve it once it has started."""
        return frozenset(candidate.envoy for candidate in self.candidates if not candidate.failed)

    def holds(self, envoys: Collection[str]) -> bool:
        """Whether these envoys make up its quorum."""
        needs = quorum(self.plan, len(self.candidates))
        return len(envoys) >= needs.minimum and needs.required <= set(envoys)

    @property
    def quorum_online(self) -> bool:
        """Whether enough of its envoys are online."""
        return self.holds([each.envoy for each in self.candidates if each.online and not each.failed])

    def given_up(self) -> str | None:
        """Return why it can never start, if too many of its envoys failed or stayed away past the start deadline."""
        limit = self.plan.start_deadline.total_seconds()
        failed = [each.envoy for each in self.candidates if each.failed]
        away = [each.envoy for each in self.candidates if each.absence > limit and not each.failed]
        if self.holds(self.envoys.difference(away)):
            return None
        late = f"{listed(away)} stayed away for more than {limit:g} s"
        if not failed:
            return f"not started within its start deadline: {late}"
        lost = f"its quorum is out of reach: {listed(failed)} failed before the start"
        return f"{lost}; {late}" if away else lost


@dataclass(frozen=True, slots=True)
class Limits:
    """How many may run at once."""

    running: int
    running_per_user: int


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided: those to start, and those to fail with their reasons."""

    start: tuple[int, ...]
    fail: Mapping[int, str]


def admit(pending: Sequence[Pending], *, engaged: Mapping[str, int], running: Counter[str], limits: Limits) -> Decision:
    """Decide which pending experiments start now.

    An experiment whose quorum is online but whose envoys are not all free reserves its envoys, so that later ones
    cannot pass it by for ever. One whose quorum is offline reserves nothing and keeps its place. One that its owner's
    limit holds back reserves nothing either: it would block others with envoys that it may not use.

    Args:
        pending: in rank order, with those that another transaction has locked.
        engaged: envoys that serve an experiment already, and which one.
        running: running experiments by owner.
        limits: how many may run at once.
    """
    taken = set(engaged)
    load = Counter(running)
    start: list[int] = []
    fail: dict[int, str] = {}
    for experiment in pending:
        if (reason := experiment.given_up()) is not None:
            fail[experiment.id] = reason
            continue
        if not experiment.quorum_online or load[experiment.owner] >= limits.running_per_user:
            continue
        if load.total() < limits.running and not experiment.envoys & taken:
            start.append(experiment.id)
            load[experiment.owner] += 1
        taken |= experiment.envoys
    return Decision(tuple(start), fail)
