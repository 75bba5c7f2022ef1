"""What a federation leaves behind: all that must be the same however often its directors died on the way."""

import asyncio
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from director.domain.history import DIRECTOR, EventKind
from director.store.engine.database import Database
from tests.simulation.actors import Client
from tests.simulation.envoys import Envoy
from tests.simulation.harness import Federation
from tests.simulation.one_thread import one_thread
from tests.simulation.researchers import Researcher
from tests.tables import outcome_rows, result_rows

Ending = Mapping[str, list[Any]]

OWNERSHIP = {EventKind.EXPERIMENT_CLAIMED, EventKind.EXPERIMENT_RELEASED, EventKind.EXPERIMENT_GIVEN}
REPEATED = {EventKind.TASKS_GIVEN, EventKind.CONTRIBUTION_LATE}
"""Given once more to an envoy that asks again; told once more by an envoy that had no answer."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended, and which promises it did not keep."""

    ending: Ending
    broken: list[str]

    def unlike(self, expected: "Outcome") -> list[str]:
        """Say how it is not what was expected, or not what was promised."""
        return differences(self.ending, expected.ending) + self.broken


def outcome(federation: Federation) -> Outcome:
    """Run a federation from its start to its end."""

    async def run() -> Outcome:
        await federation.run()
        db = federation.director.db
        found = Outcome(await ending(db), await broken_promises(db, federation.clients))
        await federation.close()
        return found

    with one_thread():
        return asyncio.run(run())


async def ending(db: Database) -> Ending:
    """Read it all, in an order that does not depend on who came first."""
    found = {aspect: sorted(each, key=repr) for aspect, each in (await outcome_rows.aspects(db)).items()}
    happened = distinct([event async for event in history(db)])
    found["event"] = sorted(happened, key=repr)
    # Envoys may overtake each other, but a loop does one thing after the other.
    found["step"] = sorted((event for event in happened if event[1] == DIRECTOR), key=lambda event: str(event[0]))
    return found


async def history(db: Database) -> Any:
    """Yield the events without instants and changes of owner."""
    for name, actor, kind, reason, details in await outcome_rows.history(db):
        known = json.loads(details) if isinstance(details, str) else details
        if kind in REPEATED:
            known = {key: known[key] for key in ("round", "task") if key in known}
        if kind not in OWNERSHIP:
            yield name, actor, kind, reason, known


def distinct(happened: Iterable[Any]) -> list[Any]:
    """Leave out what is told again."""
    kept: list[Any] = []
    for event in happened:
        if event[2] not in REPEATED or event not in kept:
            kept.append(event)
    return kept


def differences(found: Ending, expected: Ending) -> list[str]:
    """Say where two endings differ."""
    said = []
    for aspect in expected:
        one, two = [repr(row) for row in found[aspect]], [repr(row) for row in expected[aspect]]
        said += [f"{aspect} too many: {row}" for row in one if one.count(row) > two.count(row)]
        said += [f"{aspect} missing: {row}" for row in two if two.count(row) > one.count(row)]
        if not said and one != two:
            said.append(f"{aspect} in another order: {one}")
    return said


async def broken_promises(db: Database, clients: Iterable[Client]) -> list[str]:
    """Compare what clients were told with what is stored."""
    stored: defaultdict[Any, list[Any]] = defaultdict(list)
    for name, number, envoy, task, _samples, digest, _dropped in await outcome_rows.contributions(db):
        stored[name, number, envoy, task].append(digest)
    said = []
    for client in clients:
        if isinstance(client, Envoy):
            for key, digest in client.acknowledged.items():
                if stored[key.experiment, key.round_number, client.name, key.task] != [digest]:
                    said.append(f"{client.name} was told that its {key} is stored")
        elif isinstance(client, Researcher):
            for stream in client.streams:
                said += await misread(db, stream)
    return said


async def misread(db: Database, stream: Any) -> list[str]:
    """Compare what a reader read, page by page, with the rows."""
    written = await result_rows.metrics(db, stream.experiment_id)
    read = [(each.cursor.seq, each.round, each.origin, each.task, each.name, each.value) for each in stream.read]
    if read == written:
        return []
    return [f"the reader of {stream.submission.name} read {len(read)} metrics of {len(written)}, or others"]
