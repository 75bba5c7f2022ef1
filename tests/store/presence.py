"""Words for what envoys do outside experiments: they register, send heartbeats and leave."""

from datetime import timedelta

from director.domain.commands import Heartbeat
from director.domain.envoy import Device, Envoy, Shard
from director.store import envoy_lists, envoys
from director.store.engine.database import Database
from director.store.envoy_lists import Filter
from director.store.envoys import Outcome
from tests.store.words import LEASE

PERIOD = timedelta(seconds=20)
LIMIT = 40.0


def shard_of(envoy: str, *, samples: int = 10, description: str = "") -> Shard:
    return Shard(envoy, description, samples, (8, 8), (10,))


async def register(
    db: Database, envoy: str, *, session: str = "1", samples: int = 10, description: str = "", **versions: str
) -> None:
    shard = shard_of(envoy, samples=samples, description=description)
    async with db.write("register") as tx:
        await envoys.register(tx, shard, session_id=session, period=PERIOD, **versions)


def beat_of(
    envoy: str, *, session: str | None = None, running: bool = False, devices: tuple[Device, ...] = ()
) -> Heartbeat:
    return Heartbeat(envoy, running, devices, session)


async def beat(db: Database, *beats: Heartbeat) -> list[Outcome]:
    async with db.write("beat") as tx:
        return await envoys.beat(tx, beats, period=PERIOD, lease=LEASE)


async def leave(db: Database, envoy: str, session: str) -> bool:
    async with db.write("leave") as tx:
        return await envoys.leave(tx, envoy, session)


async def retire(db: Database, envoy: str) -> bool:
    async with db.write("retire") as tx:
        return await envoys.retire(tx, envoy, actor="operator")


async def restore(db: Database, envoy: str) -> bool:
    async with db.write("restore") as tx:
        return await envoys.restore(tx, envoy, actor="operator")


async def listed(db: Database, wanted: Filter | None = None, *, after: str = "", limit: int = 1000) -> list[Envoy]:
    async with db.read() as tx:
        return await envoy_lists.page(tx, wanted or Filter(), after=after, limit=limit, lease=LEASE)


async def the_one(db: Database, envoy: str) -> Envoy:
    """Return an envoy, retired or not."""
    [found] = await listed(db, Filter(names=(envoy,), show_retired=True))
    return found


async def online(db: Database) -> list[str]:
    return [envoy.name for envoy in await listed(db) if envoy.online]
