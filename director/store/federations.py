"""The one row of the federation, its clock and its periodic jobs."""

from datetime import timedelta
from typing import Any

from sqlalchemy import Table, select, update

from director.store.engine.database import Transaction
from director.store.tables import federations, periodic_jobs, service_clocks

ADMISSION = "admission"
SESSIONS = "sessions"


async def create(tx: Transaction, *, epoch: str, tick: timedelta) -> None:
    """Make the rows that a new database needs; where they exist they stay."""
    now = await tx.now()
    rows: dict[Table, list[dict[str, Any]]] = {
        federations: [{"id": 1, "epoch": epoch, "event_seq": 0, "created_at": now}],
        service_clocks: [
            {"id": 1, "service_seconds": 0.0, "ticked_at": now, "up_since": 0.0, "tick_seconds": tick.total_seconds()}
        ],
        periodic_jobs: [{"name": ADMISSION}, {"name": SESSIONS}],
    }
    for table, values in rows.items():
        await tx.execute(tx.insert(table).on_conflict_do_nothing(), values)


async def epoch(tx: Transaction) -> str:
    """Return the federation's epoch; a cursor of another one is refused."""
    return str((await tx.execute(select(federations.c.epoch))).scalar_one())


async def set_epoch(tx: Transaction, epoch: str) -> bool:
    """Begin an epoch; False if the database holds no federation yet."""
    begun = await tx.execute(update(federations).values(epoch=epoch).returning(federations.c.id))
    return begun.first() is not None


async def take_job(tx: Transaction, name: str, *, wait: bool) -> bool:
    """Lock the row of a periodic job: wait for it, or return False where another director has it."""
    row = select(periodic_jobs.c.name).where(periodic_jobs.c.name == name)
    locked = await tx.execute(row.with_for_update(key_share=True, skip_locked=not wait))
    return locked.first() is not None
