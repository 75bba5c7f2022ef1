"""Which pending experiments start: in rank order, nobody serves two, none waits for what it cannot get."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from director.domain.plan import Plan
from director.domain.steps import listed, quorum


@dataclass(frozen=True, slots=True)
class Candidate:
    """A collaborator of a pending experiment.

    Units: absence in service seconds, counted from when the experiment became eligible at the earliest.
    """

    envoy: str
    online: bool
    absence: float


@dataclass(frozen=True, slots=True)
class Pending:
    """An experiment that waits to start."""

    id: int
    owner: str
    plan: Plan
    candidates: Sequence[Candidate]

    @property
    def envoys(self) -> frozenset[str]:
        """Whom it wants."""
        return frozenset(candidate.envoy for candidate in self.candidates)

    def holds(self, envoys: Collection[str]) -> bool:
        """Whether these envoys are a quorum of it."""
        needs = quorum(self.plan, len(self.candidates))
        return len(envoys) >= needs.minimum and needs.required <= set(envoys)

    @property
    def quorum_online(self) -> bool:
        """Whether enough of its envoys are online."""
        return self.holds([candidate.envoy for candidate in self.candidates if candidate.online])

    def given_up(self) -> str | None:
        """Return why it can never start any more, if enough of its envoys have been away past the start deadline."""
        limit = self.plan.start_deadline.total_seconds()
        gone = [candidate.envoy for candidate in self.candidates if candidate.absence > limit]
        if self.holds(self.envoys.difference(gone)):
            return None
        return f"not started within its start deadline: {listed(gone)} stayed away for more than {limit:g} s"


@dataclass(frozen=True, slots=True)
class Limits:
    """How many may run at once."""

    running: int
    running_per_user: int


@dataclass(frozen=True, slots=True)
class Admission:
    """What was decided: those to start, and those to fail with their reasons."""

    start: tuple[int, ...]
    fail: Mapping[int, str]


def admit(
    pending: Sequence[Pending], *, engaged: Mapping[str, int], running: Counter[str], limits: Limits
) -> Admission:
    """Decide which pending experiments start now.

    One whose quorum is online but whose envoys are not all free reserves them, so that a later one cannot pass it by
    for ever; one whose quorum is offline reserves nothing and keeps its place. One held back by its own user's limit
    reserves nothing either: it would block others with envoys that it may not use.

    Args:
        pending: in rank order, skipped ones (locked by somebody) included.
        engaged: envoys that serve an experiment already, and which.
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
    return Admission(tuple(start), fail)
