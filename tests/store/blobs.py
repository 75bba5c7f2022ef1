"""Words for what happens to blobs."""

from director.store import contents, stash
from director.store.engine.database import Database
from director.store.stash import Blob, Upload
from tests.world import content_of

CHUNK = 4
DATA = b"0123456789"


async def begin(db: Database, data: bytes = DATA, *, upload_key: str = "p", chunk_bytes: int = CHUNK) -> Upload:
    async with db.write("begin") as tx:
        return await stash.begin(tx, upload_key, content_of(data), chunk_bytes=chunk_bytes)


async def put(db: Database, upload: Upload, number: int, data: bytes = DATA) -> bool:
    size = upload.chunk_bytes
    async with db.write("put") as tx:
        return await stash.put(tx, upload.blob_id, number, data[number * size : (number + 1) * size])


async def seal(db: Database, upload: Upload, data: bytes = DATA) -> Blob:
    async with db.write("seal") as tx:
        return await stash.seal(tx, upload.blob_id, content_of(data).digest)


async def take(db: Database, data: bytes = DATA, *, upload_key: str = "p") -> Blob:
    async with db.write("take") as tx:
        return await stash.take(tx, upload_key, content_of(data))


async def complete(db: Database, data: bytes = DATA, *, upload_key: str = "p", chunk_bytes: int = CHUNK) -> Blob:
    upload = await begin(db, data, upload_key=upload_key, chunk_bytes=chunk_bytes)
    for number in range(stash.chunk_count(len(data), chunk_bytes)):
        await put(db, upload, number, data)
    return await seal(db, upload, data)


async def sweep(db: Database) -> int:
    swept = 0
    while True:
        async with db.write("sweep") as tx:
            if not await stash.sweep_one(tx):
                return swept
        swept += 1


async def whole(db: Database, blob: Blob) -> bytes:
    return b"".join([data async for _, data in contents.chunks(db, blob)])
