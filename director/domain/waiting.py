"""What an experiment waits for, in sentences: the answer to `director why`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from director.domain.steps import Member, OpenRound, Snapshot, listed, quorum
from director.domain.types import ExperimentState, RoundKind, RoundState


@dataclass(frozen=True, slots=True)
class Presence:
    """What is known of an envoy.

    Units: absence in service seconds.
    """

    online: bool
    absence: float
    serving: str | None


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What surrounds an experiment."""

    envoys: Mapping[str, Presence]
    eligible: bool
    owned: bool
    manual_review: bool
    ahead: Sequence[str]
    running: int
    limit: int
    rests_seconds: float
    """For how long nobody may claim it, after crashes."""
    full: str | None = None
    """Why the database takes nothing in, if it does not."""


def why(snapshot: Snapshot, around: Circumstances) -> list[str]:
    """Say what an experiment waits for, most important first."""
    if around.full is not None and not snapshot.state.terminal:
        return [f"room, as everything does: {around.full}"]
    match snapshot.state:
        case ExperimentState.PENDING:
            return pending(snapshot, around)
        case ExperimentState.IN_PROGRESS:
            return in_progress(snapshot, around)
        case _:
            return [f"nothing: it is {snapshot.state}"]


def pending(snapshot: Snapshot, around: Circumstances) -> list[str]:
    """Say what a pending experiment waits for."""
    if not around.eligible:
        if around.manual_review:
            return ["a manual review: an operator approves or rejects it"]
        return ["the answer of the director's review callback"]
    found = []
    needs = quorum(snapshot.plan, len(snapshot.members))
    offline = [member.envoy for member in snapshot.members if not around.envoys[member.envoy].online]
    present = len(snapshot.members) - len(offline)
    if present < needs.minimum or needs.required & set(offline):
        deadline = snapshot.plan.start_deadline.total_seconds()
        found.append(
            f"its quorum: {present} of at least {needs.minimum} envoys are online; it fails after {deadline:g} s"
        )
        found += [f"envoy {name}: offline for {around.envoys[name].absence:.0f} s" for name in offline]
    for member in snapshot.members:
        serving = around.envoys[member.envoy].serving
        if serving is not None:
            found.append(f"envoy {member.envoy}: busy with experiment {serving}")
    if around.running >= around.limit:
        found.append(f"room: {around.running} experiments are running, which is the limit")
    if around.ahead:
        found.append(f"its place in the queue: {len(around.ahead)} before it ({listed(around.ahead)})")
    return found or ["the director's next look at the queue"]


def in_progress(snapshot: Snapshot, around: Circumstances) -> list[str]:
    """Say what a running experiment waits for."""
    if not around.owned:
        if around.rests_seconds > 0:
            return [f"the end of a pause of {around.rests_seconds:.0f} s: it took its director down several times"]
        return ["a director to claim it"]
    current = snapshot.round
    if current is None:
        return ["its first round to open"]
    if current.state is not RoundState.COLLECTING:
        return [f"the aggregation of round {current.number}"]
    return [*(waits_for(member, around) for member in snapshot.members if member.open), ends(snapshot, current)]


def waits_for(member: Member, around: Circumstances) -> str:
    """Say what is awaited from an envoy."""
    envoy = around.envoys[member.envoy]
    if envoy.online:
        return f"envoy {member.envoy}: {member.state}, its results are open"
    return f"envoy {member.envoy}: offline for {envoy.absence:.0f} s, its results are open"


def ends(snapshot: Snapshot, current: OpenRound) -> str:
    """Say when a round ends at the latest."""
    what = "the final validation" if current.kind is RoundKind.FINAL else f"round {current.number}"
    left = current.deadline - snapshot.now
    return f"{what}: its deadline is in {left:.0f} s" if left > 0 else f"{what}: its deadline has passed"
