"""Copying bytes inside the stash, in bounded steps: each blob has one owner, so that what is shared is copied."""

from director.services.runtime import Runtime
from director.store import copies, stash
from director.store.stash import Blob, Upload

STEP_BYTES = 16 << 20
"""Bytes copied in one transaction, at most."""


async def copy(runtime: Runtime, source: Blob, target: Upload) -> None:
    """Copy a stored blob into one that is being received, from its first missing chunk on, and seal that.

    The bytes never leave the database. They are those of a sealed blob, so they are not hashed again.

    Raises:
        Unavailable: the source was dropped, or the target given up, meanwhile; repeat the call.
        DiskFull: there is no room; what was copied is kept.
    """
    count = stash.chunk_count(source.size_bytes, source.chunk_bytes)
    step = max(1, STEP_BYTES // source.chunk_bytes)
    for first in range(count if target.missing is None else target.missing, count, step):
        await runtime.disk.require()
        last = min(first + step, count)
        async with runtime.db.write("copy chunks") as tx:
            await copies.copy(tx, source, target.blob_id, first=first, last=last)
        runtime.disk.spend((last - first) * source.chunk_bytes)
    async with runtime.db.write("seal copy") as tx:
        await stash.seal(tx, target.blob_id, source.digest)
