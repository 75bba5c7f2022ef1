"""What the execution loop of an experiment does next: `next_step` decides from a snapshot.

No other module knows quorum, target and cutoff.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from director.domain import selection
from director.domain.experiment import Failure
from director.domain.history import listed
from director.domain.limits import MAX_LISTED
from director.domain.plan import Plan
from director.domain.types import AssignmentState, CollaboratorState, ExperimentState, RoundKind, RoundState


@dataclass(frozen=True, slots=True)
class Member:
    """A collaborator, its assignment in the open round and whether all its results are there."""

    envoy: str
    state: CollaboratorState
    absence: float = 0.0
    assignment: AssignmentState | None = None
    complete: bool = False
    failure: Failure | None = None

    @property
    def available(self) -> bool:
        """Whether it can be asked in a new round."""
        return self.state.engaged

    @property
    def open(self) -> bool:
        """Whether its results are still missing in the round and may yet come."""
        return self.assignment is AssignmentState.ASKED and not self.complete and self.state.engaged


@dataclass(frozen=True, slots=True)
class OpenRound:
    """The round that is collecting or aggregating, or was closed last."""

    number: int
    kind: RoundKind
    state: RoundState
    deadline: float
    first_task: float | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that a step is chosen from, read in one transaction.

    Units: service seconds for every instant and length.
    """

    plan: Plan
    state: ExperimentState
    seed: int
    now: float
    members: Sequence[Member]
    round: OpenRound | None = None
    review_due: bool = False
    review_deadline: float | None = None


@dataclass(frozen=True, slots=True)
class Review:
    """Ask the review callback."""


@dataclass(frozen=True, slots=True)
class Open:
    """Open a round and ask these envoys."""

    number: int
    kind: RoundKind
    envoys: tuple[str, ...]
    deadline: float


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do before this service second, unless something happens."""

    until: float


@dataclass(frozen=True, slots=True)
class Freeze:
    """Count the complete collaborators, and begin to aggregate."""


@dataclass(frozen=True, slots=True)
class Close:
    """Fold the counted updates into the next model and close the round."""

    number: int


@dataclass(frozen=True, slots=True)
class Finish:
    """Close the last round; the experiment has finished."""

    number: int


@dataclass(frozen=True, slots=True)
class Fail:
    """End the experiment with a reason."""

    reason: str


@dataclass(frozen=True, slots=True)
class Leave:
    """Release the experiment: it has ended, or this director has nothing to do in it."""


Step = Review | Open | Wait | Freeze | Close | Finish | Fail | Leave


@dataclass(frozen=True, slots=True)
class Quorum:
    """How many collaborators a train round needs and asks, and which ones are required."""

    minimum: int
    meant: int
    asked: int
    target: int | None
    required: frozenset[str] = field(default_factory=frozenset)


def quorum(plan: Plan, collaborators: int) -> Quorum:
    """Return what a train round needs, from its plan and the number of collaborators.

    It needs at least `minimum` of them, with the required ones; it asks `asked` of them, and may end at `target`.
    """
    chosen = max(1, ceiling(plan.selection, collaborators))
    relaxed = plan.percentage is not None or plan.cutoff is not None or plan.over_selection > 0
    default = 1 if relaxed else chosen
    minimum = max(plan.min_collaborators or default, len(plan.required_collaborators))
    meant = max(minimum, chosen)
    target = None
    if plan.percentage is not None:
        target = ceiling(plan.percentage, meant)
    elif plan.over_selection:
        target = meant
    return Quorum(minimum, meant, meant + plan.over_selection, target, frozenset(plan.required_collaborators))


def ceiling(share: float, of: int) -> int:
    """Round a share of a number up, forgiving what binary fractions add to decimal ones (0.07 · 100)."""
    return math.ceil(round(share * of, 9))


def has_final(plan: Plan) -> bool:
    """Whether a last round validates the last model: only where there is a task that measures."""
    return len(plan.validate_tasks) > 0


def next_step(snapshot: Snapshot) -> Step:
    """Choose what the owner of an experiment does next."""
    if snapshot.state.terminal:
        return Leave()
    if snapshot.state is ExperimentState.PENDING:
        return review_step(snapshot)
    current = snapshot.round
    if current is None:
        return open_step(snapshot, 1)
    match current.state:
        case RoundState.COLLECTING:
            return collecting_step(snapshot, current)
        case RoundState.AGGREGATING:
            last = current.kind is RoundKind.FINAL or (
                current.number == snapshot.plan.rounds and not has_final(snapshot.plan)
            )
            return Finish(current.number) if last else Close(current.number)
        case RoundState.CLOSED:
            return open_step(snapshot, current.number + 1)
        case RoundState.ABANDONED:
            return Leave()


def review_step(snapshot: Snapshot) -> Step:
    """Choose the step of a pending experiment: a director owns it only for its review."""
    if not snapshot.review_due:
        return Leave()
    if snapshot.review_deadline is not None and snapshot.now >= snapshot.review_deadline:
        return Fail("the review was not answered in time")
    return Review()


def open_step(snapshot: Snapshot, number: int) -> Open | Fail:
    """Open a round, or fail if it cannot ask as many collaborators as it needs."""
    available = [member.envoy for member in snapshot.members if member.available]
    deadline = snapshot.now + snapshot.plan.round_deadline.total_seconds()
    if number > snapshot.plan.rounds:
        return Open(number, RoundKind.FINAL, tuple(available), deadline)
    needs = quorum(snapshot.plan, len(snapshot.members))
    if len(available) < needs.minimum or not needs.required <= set(available):
        return Fail(shortage(snapshot, needs, number))
    asked = selection.select(
        available, required=sorted(needs.required), count=needs.asked, seed=snapshot.seed, round_number=number
    )
    return Open(number, RoundKind.TRAIN, tuple(asked), deadline)


def collecting_step(snapshot: Snapshot, current: OpenRound) -> Freeze | Fail | Wait:
    """Freeze a round that ends, fail one that cannot, or wait."""
    final = current.kind is RoundKind.FINAL
    needs = Quorum(0, 0, 0, None) if final else quorum(snapshot.plan, len(snapshot.members))
    complete = {member.envoy for member in snapshot.members if member.complete}
    waited_for = [member for member in snapshot.members if member.open]
    reachable = complete | {member.envoy for member in waited_for}
    if len(reachable) < needs.minimum or not needs.required <= reachable:
        return Fail(shortage(snapshot, needs, current.number))
    enough = len(complete) >= needs.minimum and needs.required <= complete
    grace = snapshot.plan.envoy_grace.total_seconds()
    present = [member for member in waited_for if member.absence <= grace]
    cutoff = None
    if snapshot.plan.cutoff is not None and current.first_task is not None:
        cutoff = current.first_task + snapshot.plan.cutoff.total_seconds()
    past_cutoff = cutoff is not None and snapshot.now >= cutoff
    past_deadline = snapshot.now >= current.deadline
    reached = needs.target is not None and len(complete) >= needs.target
    if enough and (not present or reached or past_cutoff or past_deadline):
        return Freeze()
    if past_deadline and not snapshot.plan.wait_past_deadline:
        return Fail(
            f"round {current.number} reached its deadline with {len(complete)} of at least {needs.minimum} "
            f"collaborators done; still waiting for {listed(member.envoy for member in waited_for)}"
        )
    instants = [current.deadline] + [snapshot.now + grace - member.absence for member in present if enough]
    if cutoff is not None:
        instants.append(cutoff)
    return Wait(min((instant for instant in instants if instant > snapshot.now), default=math.inf))


def shortage(snapshot: Snapshot, needs: Quorum, number: int) -> str:
    """Say why a round cannot reach its minimum, and quote the failures that led to it."""
    gone = [member for member in snapshot.members if member.state is CollaboratorState.FAILED]
    lost = f"round {number} cannot reach its minimum of {needs.minimum} collaborators"
    if missing := needs.required & {member.envoy for member in gone}:
        lost = f"round {number} needs {listed(missing)}"
    told = [
        f"{member.envoy} failed: {member.failure.brief if member.failure else 'no reason given'}"
        for member in gone[:MAX_LISTED]
    ]
    if len(gone) > MAX_LISTED:
        told.append(f"{len(gone) - MAX_LISTED} more failed")
    return "; ".join([lost, *told])
