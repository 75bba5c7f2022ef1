"""What must hold at the end of any run, whatever went wrong in it: what fsck looks at, and what only we know."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from director.domain.types import BlobId, ExperimentState
from director.services import checking
from director.store import contents, stash
from director.store.engine.database import Database
from tests.simulation import laboratory
from tests.simulation.actors import Client
from tests.simulation.endings import broken_promises
from tests.simulation.envoys import EXCUSE
from tests.simulation.operators import REASON
from tests.simulation.researchers import Submission
from tests.tables import experiment_rows, outcome_rows

EXCUSES = (EXCUSE, REASON, "failed before the start")
"""Why experiments may fail: an envoy could not go on, or was retired."""


async def violations(db: Database, clients: Iterable[Client], submissions: Iterable[Submission]) -> list[str]:
    """Look at the rows and at the ledgers; return what does not hold."""
    said = [finding.text async for finding in checking.findings(db)]
    said += [f"{what}: {found}" for what, found in (await outcome_rows.violations(db)).items()]
    said += await broken_promises(db, clients)
    for submission in submissions:
        said += await wrong_end(db, submission)
        said += await wrong_models(db, submission)
    return said


async def wrong_end(db: Database, submission: Submission) -> list[str]:
    """Say how an experiment ended that should not have ended so: no weather makes one fail."""
    state, reason, last_model, rounds = await experiment_rows.progress(db, submission.name)
    fine = {
        ExperimentState.FINISHED: last_model == rounds,
        ExperimentState.CANCELLED: submission.cancelled_by is not None,
        ExperimentState.FAILED: any(text in (reason or "") for text in EXCUSES),
    }
    return [] if fine.get(state, False) else [f"{submission.name} is {state} ({reason}) with model {last_model}"]


async def wrong_models(db: Database, submission: Submission) -> list[str]:
    """Reckon every model again from its base and from those who count; return those that differ."""
    name = submission.name
    counted: defaultdict[int, list[str]] = defaultdict(list)
    for number, envoy in await outcome_rows.counted(db, name):
        counted[number].append(envoy)
    expected, said = submission.weights.tobytes(), []
    for number, blob_id in await outcome_rows.model_blobs(db, name):
        if number > 0:
            expected = laboratory.next_model(name, number, counted[number], expected)
        if await payload(db, blob_id) != expected:
            said.append(f"model {number} of {name} is not what {counted[number]} make of model {number - 1}")
    return said


async def payload(db: Database, blob_id: Any) -> bytes:
    """Return a blob's bytes."""
    async with db.read() as tx:
        blob = await stash.get(tx, BlobId(blob_id))
    return b"".join([data async for _number, data in contents.chunks(db, blob)])
