"""What an experiment waits for, in sentences: the answer to `director why`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from director.domain.history import listed
from director.domain.limits import MAX_LISTED
from director.domain.steps import Member, OpenRound, Snapshot, quorum
from director.domain.types import CollaboratorState, ExperimentState, RoundKind, RoundState


@dataclass(frozen=True, slots=True)
class EnvoyPresence:
    """What is known of an envoy; `serving` is the experiment that it takes part in.

    Units: absence in service seconds.
    """

    online: bool
    absence: float
    serving: str | None


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What surrounds an experiment.

    `ahead` are the experiments with a better place in the queue, None where the caller may not see one; `running` may
    start up to `limit`.
    """

    envoys: Mapping[str, EnvoyPresence]
    eligible: bool
    owned: bool
    manual_review: bool
    ahead: Sequence[str | None]
    running: int
    limit: int
    rests_seconds: float
    """For how long no director may claim it, after crashes."""
    full: str | None = None
    """Why the database refuses new data, if it does."""


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
    found: list[str] = []
    needs = quorum(snapshot.plan, len(snapshot.members))
    able = [member for member in snapshot.members if member.state is not CollaboratorState.FAILED]
    present = {member.envoy for member in able if around.envoys[member.envoy].online}
    missing: list[Member] = []
    if len(present) < needs.minimum or not needs.required <= present:
        deadline = snapshot.plan.start_deadline.total_seconds()
        found.append(
            f"its quorum: {len(present)} of at least {needs.minimum} envoys are online; it fails after {deadline:g} s"
        )
        missing = [member for member in snapshot.members if member.envoy not in present]
    reachable = [member for member in able if not missing or member.envoy in present]
    busy = [member for member in reachable if around.envoys[member.envoy].serving is not None]
    envoys = [absent(member, around) for member in missing] + [occupied(member, around) for member in busy]
    found += shortened(envoys, "are not available")
    if around.running >= around.limit:
        found.append(f"room: {around.running} experiments are running, which is the limit")
    if around.ahead:
        found.append(f"its place in the queue: {len(around.ahead)} before it ({seen_of(around.ahead)})")
    return found or ["the director's next look at the queue"]


def seen_of(ahead: Sequence[str | None]) -> str:
    """Name experiments, as far as the caller may see them, and count the others."""
    names = [each for each in ahead if each is not None]
    others = f"{len(ahead) - len(names)} of other users" if len(names) < len(ahead) else ""
    return " and ".join(each for each in (listed(names) if names else "", others) if each)


def absent(member: Member, around: Circumstances) -> str:
    """Say why an envoy cannot join a pending experiment's quorum."""
    if member.state is CollaboratorState.FAILED:
        return f"envoy {member.envoy}: failed: {member.failure.brief if member.failure else 'no reason given'}"
    return f"envoy {member.envoy}: offline for {around.envoys[member.envoy].absence:.0f} s"


def occupied(member: Member, around: Circumstances) -> str:
    """Say what keeps an envoy from joining a pending experiment."""
    return f"envoy {member.envoy}: busy with experiment {around.envoys[member.envoy].serving}"


def in_progress(snapshot: Snapshot, around: Circumstances) -> list[str]:
    """Say what a running experiment waits for; envoys that are offline come first."""
    if not around.owned:
        if around.rests_seconds > 0:
            return [f"the end of a pause of {around.rests_seconds:.0f} s: it took its director down several times"]
        return ["a director to claim it"]
    current = snapshot.round
    if current is None:
        return ["its first round to open"]
    if current.state is not RoundState.COLLECTING:
        return [f"the aggregation of round {current.number}"]
    waited_for = sorted(
        (member for member in snapshot.members if member.open), key=lambda member: around.envoys[member.envoy].online
    )
    results = shortened([waits_for(member, around) for member in waited_for], "have open results")
    return [*results, ends(snapshot, current)]


def waits_for(member: Member, around: Circumstances) -> str:
    """Say what is awaited from an envoy."""
    envoy = around.envoys[member.envoy]
    if envoy.online:
        return f"envoy {member.envoy}: {member.state}, its results are open"
    return f"envoy {member.envoy}: offline for {envoy.absence:.0f} s, its results are open"


def shortened(sentences: Sequence[str], what: str) -> list[str]:
    """Keep the sentences about the first envoys; say of the others how many they are, and what they have in common."""
    if len(sentences) <= MAX_LISTED:
        return list(sentences)
    return [*sentences[:MAX_LISTED], f"{len(sentences) - MAX_LISTED} more envoys {what}"]


def ends(snapshot: Snapshot, current: OpenRound) -> str:
    """Say when a round ends at the latest."""
    what = "the final validation" if current.kind is RoundKind.FINAL else f"round {current.number}"
    left = current.deadline - snapshot.now
    return f"{what}: its deadline is in {left:.0f} s" if left > 0 else f"{what}: its deadline has passed"
