"""Check that a database keeps its invariants: page by page, each in a short snapshot, beside running directors."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from director.domain.types import ExperimentId
from director.errors import NotFound
from director.store import contents, experiments, fsck
from director.store.engine.database import Database
from director.store.fsck import Check, ExperimentPart, Finding, Part
from director.store.stash import Blob


@dataclass(frozen=True, slots=True)
class FsckReport:
    """How much was checked, and what was found."""

    checks: int
    findings: list[Finding]


async def report(db: Database) -> FsckReport:
    """Check everything."""
    return FsckReport(len(Check), [finding async for finding in findings(db)])


async def findings(db: Database) -> AsyncIterator[Finding]:
    """Yield what contradicts an invariant, as it is found."""
    async for finding in of_federation(db):
        yield finding
    async for finding in of_bytes(db):
        yield finding
    last = 0
    while True:
        async with db.read() as tx:
            ids = await fsck.experiment_checks.ids(tx, last)
        if not ids:
            return
        for experiment_id in ids:
            async for finding in of_experiment(db, ExperimentId(experiment_id)):
                yield finding
        last = ids[-1]


async def of_federation(db: Database) -> AsyncIterator[Finding]:
    """Check the federation as a whole: the next page of every part in one snapshot, until all have had their last."""
    todo: dict[Part, Any] = dict.fromkeys(fsck.FEDERATION)
    while todo:
        async with db.read() as tx:
            pages = {part: await part(tx, after) for part, after in todo.items()}
        todo = {part: page.after for part, page in pages.items() if page.after is not None}
        for page in pages.values():
            for finding in page.findings:
                yield finding


async def of_experiment(db: Database, experiment_id: ExperimentId) -> AsyncIterator[Finding]:
    """Check one experiment, in the same way."""
    todo: dict[ExperimentPart, Any] = dict.fromkeys(fsck.EXPERIMENT + fsck.HISTORY)
    while todo:
        async with db.read() as tx:
            experiment = await experiments.get(tx, experiment_id)
            dropped = await fsck.stream_checks.history_dropped(tx, experiment)
            pages = {
                part: await part(tx, experiment, after)
                for part, after in todo.items()
                if not (dropped and part in fsck.HISTORY)
            }
        todo = {part: page.after for part, page in pages.items() if page.after is not None}
        for page in pages.values():
            for finding in page.findings:
                yield finding


async def of_bytes(db: Database) -> AsyncIterator[Finding]:
    """Read every blob that is all there, one chunk at a time."""
    last = 0
    while True:
        async with db.read() as tx:
            blobs = await fsck.blob_checks.whole(tx, last)
        if not blobs:
            return
        for blob in blobs:
            for finding in await of_blob(db, blob):
                yield finding
        last = blobs[-1].id


async def of_blob(db: Database, blob: Blob) -> list[Finding]:
    """Check a blob's chunks, then their bytes."""
    async with db.read() as tx:
        found = await fsck.blob_checks.layout(tx, blob)
    if found:
        return found
    digest = hashlib.sha256()
    try:
        async for _number, data in contents.chunks(db, blob):
            await asyncio.to_thread(digest.update, data)
    except NotFound:
        return []  # swept since: a moment ago its chunks were whole
    return fsck.blob_checks.damaged(blob, digest.hexdigest())
