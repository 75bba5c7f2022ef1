"""Looks whether a database keeps its invariants: page by page, each in a short snapshot, beside running directors."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from director.domain.types import ExperimentId
from director.errors import NotFound
from director.store import experiments, fsck, stash
from director.store.database import Database
from director.store.fsck import Check, ExperimentPart, Finding, Part
from director.store.stash import Blob


@dataclass(frozen=True, slots=True)
class Report:
    """How much was checked, and what was found."""

    checks: int
    findings: list[Finding]


async def report(db: Database) -> Report:
    """Check everything."""
    return Report(len(Check), [finding async for finding in findings(db)])


async def findings(db: Database) -> AsyncIterator[Finding]:
    """Yield what contradicts an invariant, as it is found."""
    for part in fsck.FEDERATION:
        async for finding in of_federation(db, part):
            yield finding
    async for finding in of_bytes(db):
        yield finding
    last = 0
    while True:
        async with db.read() as tx:
            ids = await fsck.experiments.ids(tx, last)
        if not ids:
            return
        for experiment_id in ids:
            for each in (*fsck.EXPERIMENT, *fsck.HISTORY):
                async for finding in of_experiment(db, ExperimentId(experiment_id), each):
                    yield finding
        last = ids[-1]


async def of_federation(db: Database, part: Part) -> AsyncIterator[Finding]:
    """Go through the pages of a part."""
    after = None
    while True:
        async with db.read() as tx:
            page = await part(tx, after)
        for finding in page.findings:
            yield finding
        if (after := page.after) is None:
            return


async def of_experiment(db: Database, experiment_id: ExperimentId, part: ExperimentPart) -> AsyncIterator[Finding]:
    """Go through the pages of a part that is about one experiment."""
    after = None
    while True:
        async with db.read() as tx:
            experiment = await experiments.get(tx, experiment_id)
            if part in fsck.HISTORY and await fsck.streams.history_dropped(tx, experiment):
                return
            page = await part(tx, experiment, after)
        for finding in page.findings:
            yield finding
        if (after := page.after) is None:
            return


async def of_bytes(db: Database) -> AsyncIterator[Finding]:
    """Read every blob that is all there, one chunk at a time."""
    last = 0
    while True:
        async with db.read() as tx:
            blobs = await fsck.blobs.whole(tx, last)
        if not blobs:
            return
        for blob in blobs:
            for finding in await of_blob(db, blob):
                yield finding
        last = blobs[-1].id


async def of_blob(db: Database, blob: Blob) -> list[Finding]:
    """Check a blob's chunks, then their bytes."""
    async with db.read() as tx:
        found = await fsck.blobs.layout(tx, blob)
    if found:
        return found
    digest = hashlib.sha256()
    try:
        async for _number, data in stash.read_chunks(db, blob):
            await asyncio.to_thread(digest.update, data)
    except NotFound:
        return []  # swept since: a moment ago its chunks were whole
    return fsck.blobs.damaged(blob, digest.hexdigest())
