"""Reading the reporting views, as `director report` shows them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Executable, select, text

from director.domain.names import is_uid
from director.errors import InvalidArgument
from director.store.engine.database import Transaction

ORDER = {
    "experiments": "experiment_id",
    "rounds": "experiment_id, round",
    "contributions": "experiment_id, round, envoy, task",
    "metrics": "experiment_id, seq",
    "envoy_uptime": "envoy, session_id",
    "failures": "experiment_id, envoy",
}
"""The reports, and the order that their rows are shown in."""

ENVOY_REPORTS = frozenset({"envoy_uptime"})


@dataclass(frozen=True, slots=True)
class ReportRows:
    """Rows of a view, with the names of its columns."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


async def read(tx: Transaction, name: str, *, experiment: str | None, limit: int) -> ReportRows:
    """Read a report; of one experiment, if its name or its uid is given.

    Raises:
        InvalidArgument: there is no such report, or it is not about experiments.
    """
    if name not in ORDER:
        raise InvalidArgument(f"there is no report {name!r}; there are {', '.join(ORDER)}")
    query = select(text("*")).select_from(text(f"report_{name}")).order_by(text(ORDER[name])).limit(limit)
    if experiment is not None:
        if name in ENVOY_REPORTS:
            raise InvalidArgument(f"the report {name!r} is not about experiments")
        column, wanted = ("experiment_uid", experiment.lower()) if is_uid(experiment) else ("experiment", experiment)
        query = query.where(text(f"{column} = :wanted")).params(wanted=wanted)
    return await run(tx, query)


async def query(tx: Transaction, sql: str) -> ReportRows:
    """Run a query as it is."""
    return await run(tx, text(sql))


async def run(tx: Transaction, statement: Executable) -> ReportRows:
    """Run a statement that returns rows."""
    found = await tx.execute(statement)
    columns = list(found.keys())
    return ReportRows(columns, [list(map(typed, columns, row)) for row in found.all()])


def typed(column: str, value: Any) -> Any:
    """Return an instant as one on both engines: SQLite has no type for it, and what a view gives is text."""
    if column.endswith("_at") and isinstance(value, str):
        return datetime.fromisoformat(value).replace(tzinfo=UTC)
    return value
