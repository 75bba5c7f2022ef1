"""What a federation leaves behind: all that must be the same however often its directors died on the way."""

import math
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from sqlalchemy import text

from director.domain.messages import EventKind
from director.store.database import Database
from tests.store.words import rows

Ending = Mapping[str, Any]

ASPECTS = {
    "states": "SELECT name, state, reason, round, last_model, best_model, best_score FROM experiments",
    "models": "SELECT e.name, m.number, m.digest, m.size_bytes, m.score FROM models m "
    "JOIN experiments e ON e.id = m.experiment_id",
    "metrics": "SELECT e.name, m.round, m.origin, m.task, m.name, m.value FROM metrics m "
    "JOIN experiments e ON e.id = m.experiment_id",
    "contributions": "SELECT e.name, c.round, c.envoy, c.task, c.samples, c.digest FROM contributions c "
    "JOIN experiments e ON e.id = c.experiment_id",
    "rounds": "SELECT e.name, r.number, r.kind, r.state, r.asked, r.counted, r.missed, r.failed, r.samples, r.score "
    "FROM rounds r JOIN experiments e ON e.id = r.experiment_id",
    "assignments": "SELECT e.name, a.round, a.envoy, a.state FROM assignments a "
    "JOIN experiments e ON e.id = a.experiment_id",
    "collaborators": "SELECT e.name, c.envoy, c.state, c.error FROM collaborators c "
    "JOIN experiments e ON e.id = c.experiment_id",
    "held": "SELECT purpose IS NULL, state, count(*) FROM blobs WHERE state = 'taken' GROUP BY 1, 2",
}
EVENTS = (
    "SELECT e.name, v.seq, v.actor, v.kind, v.reason, v.details FROM events v JOIN experiments e ON e.id = v.stream "
    "ORDER BY v.stream, v.seq"
)
OWNERSHIP = {EventKind.EXPERIMENT_CLAIMED, EventKind.EXPERIMENT_RELEASED, EventKind.EXPERIMENT_GIVEN}
REPEATED = {EventKind.TASKS_GIVEN, EventKind.CONTRIBUTION_LATE}
"""Given again to an envoy that asks anew, told again by one that had no answer."""


async def ending(db: Database) -> Ending:
    """Read it all, in an order that does not depend on who came first."""
    found: dict[str, Any] = {aspect: sorted(await rows(db, query), key=repr) for aspect, query in ASPECTS.items()}
    found["history"] = await history(db)
    return found


async def history(db: Database) -> Mapping[str, list[Any]]:
    """Return each experiment's events, without instants, changes of owner and repeats."""
    async with db.read() as tx:
        recorded = (await tx.execute(text(EVENTS))).all()
    told: defaultdict[str, list[Any]] = defaultdict(list)
    seen = set()
    for name, _seq, actor, kind, reason, details in recorded:
        if kind in OWNERSHIP:
            continue
        known = plain(details)
        if kind in REPEATED:
            known = {"round": known["round"], "task": known.get("task")}
            key = (name, actor, kind, repr(known))
            if key in seen:
                continue
            seen.add(key)
        told[name].append((actor, kind, reason, known))
    return {name: [*by_the_director(happened), *sorted(happened, key=repr)] for name, happened in told.items()}


def plain(details: Any) -> dict[str, Any]:
    """Return an event's details as they were written."""
    import json

    return json.loads(details) if isinstance(details, str) else dict(details)


def by_the_director(happened: list[Any]) -> list[Any]:
    """Return in their order the events that one loop wrote; those of envoys may overtake each other."""
    return [each for each in happened if each[0] == "director"]


def differences(found: Ending, expected: Ending) -> list[str]:
    """Say where two endings differ."""
    said = []
    for aspect in expected:
        if same(found[aspect], expected[aspect]):
            continue
        if isinstance(expected[aspect], dict):
            found_rows = [(name, each) for name, told in found[aspect].items() for each in told]
            wanted = [(name, each) for name, told in expected[aspect].items() for each in told]
        else:
            found_rows, wanted = found[aspect], expected[aspect]
        more = [row for row in found_rows if row not in wanted]
        less = [row for row in wanted if row not in found_rows]
        said.append(f"{aspect}: unexpected {more}, missing {less}" if more or less else f"{aspect}: another order")
    return said


def same(one: Any, two: Any) -> bool:
    """Whether two values are equal, NaN being equal to itself."""
    return repr(one) == repr(two) if not isinstance(one, float) or not math.isnan(one) else math.isnan(two)
