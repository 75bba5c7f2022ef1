"""Experiments get a uid, envoys sessions, failures a task and a type; tables and columns get their final words."""

import hashlib
import json
import secrets  # noqa: TID251  # a revision imports nothing of the director
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

INSTANT = sa.DateTime().with_variant(postgresql.TIMESTAMP(timezone=True), "postgresql")
DOCUMENT = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
STEP = 50
"""Experiments read at a time: a manifest may take megabytes."""

OLD_VIEWS = {
    "report_experiments": """
        SELECT id AS experiment_id, name AS experiment, owner, state, reason, rule, priority, rounds_total, round,
               last_model, best_model, best_score, submitted_at, eligible_at, started_at, finished_at, removed_at,
               queued_seconds, running_seconds
        FROM experiments
    """,
    "report_rounds": """
        SELECT r.experiment_id, e.name AS experiment, r.number AS round, r.kind, r.state, r.opened_at, r.frozen_at,
               r.closed_at, r.collecting_seconds, r.round_seconds, r.asked, r.counted, r.missed, r.failed, r.samples,
               r.score
        FROM rounds r JOIN experiments e ON e.id = r.experiment_id
    """,
    "report_contributions": """
        SELECT c.experiment_id, e.name AS experiment, c.round, c.envoy, c.task, a.state AS assignment_state, c.samples,
               c.digest, c.attempt, a.asked_at, a.given_at, c.received_at, c.working_seconds
        FROM contributions c
        JOIN experiments e ON e.id = c.experiment_id
        JOIN assignments a ON a.experiment_id = c.experiment_id AND a.round = c.round AND a.envoy = c.envoy
    """,
    "report_metrics": """
        SELECT m.experiment_id, e.name AS experiment, m.seq, m.round, m.origin, m.task, m.name AS metric, m.value,
               m.recorded_at
        FROM metrics m JOIN experiments e ON e.id = m.experiment_id
    """,
    "report_envoy_uptime": """
        SELECT s.envoy, s.id AS session_id, s.month, s.online_at, s.last_seen_at, s.offline_at, s.online_seconds
        FROM envoy_sessions s
    """,
    "report_failures": """
        SELECT c.experiment_id, e.name AS experiment, e.state AS experiment_state, e.reason AS experiment_reason,
               c.envoy, c.state AS collaborator_state, c.attempt, c.error, c.ended_at
        FROM collaborators c JOIN experiments e ON e.id = c.experiment_id
        WHERE c.state = 'failed'
    """,
}
VIEWS = {
    "report_experiments": """
        SELECT id AS experiment_id, name AS experiment, owner, state, reason, rule, priority, rounds_total, round,
               last_model, best_model, best_score, submitted_at, eligible_at, started_at, finished_at, removed_at,
               queued_seconds, running_seconds, uid AS experiment_uid
        FROM experiments
    """,
    "report_rounds": """
        SELECT r.experiment_id, e.name AS experiment, r.number AS round, r.kind, r.state, r.opened_at, r.frozen_at,
               r.closed_at, r.collecting_seconds, r.round_seconds, r.asked, r.counted, r.missed, r.failed, r.samples,
               r.score, e.uid AS experiment_uid
        FROM rounds r JOIN experiments e ON e.id = r.experiment_id
    """,
    "report_contributions": """
        SELECT c.experiment_id, e.name AS experiment, c.round, c.envoy, c.task, a.state AS assignment_state, c.samples,
               c.digest, c.attempt, a.asked_at, a.given_at, c.received_at, c.working_seconds, e.uid AS experiment_uid
        FROM contributions c
        JOIN experiments e ON e.id = c.experiment_id
        JOIN assignments a ON a.experiment_id = c.experiment_id AND a.round = c.round AND a.envoy = c.envoy
    """,
    "report_metrics": """
        SELECT m.experiment_id, e.name AS experiment, m.seq, m.round, m.origin, m.task, m.name AS metric, m.value,
               m.recorded_at, e.uid AS experiment_uid
        FROM metrics m JOIN experiments e ON e.id = m.experiment_id
    """,
    "report_envoy_uptime": OLD_VIEWS["report_envoy_uptime"],
    "report_failures": """
        SELECT c.experiment_id, e.name AS experiment, e.state AS experiment_state, e.reason AS experiment_reason,
               c.envoy, c.state AS collaborator_state, c.attempt, c.error, c.ended_at, c.failed_task AS task,
               c.error_type, e.uid AS experiment_uid
        FROM collaborators c JOIN experiments e ON e.id = c.experiment_id
        WHERE c.state = 'failed'
    """,
}


def header_of(rows: list[list[Any]]) -> str:
    """Write [name, dtype, shape] rows as the header of a `.safetensors` file, whose data have this order."""
    entries: dict[str, Any] = {}
    offset = 0
    for name, dtype, shape in rows:
        size = width(dtype)
        for length in shape:
            size *= length
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    return json.dumps(entries, separators=(",", ":"), ensure_ascii=False)


def width(dtype: str) -> int:
    """Return the bytes of one element: BOOL has one, F8_E5M2 too, and of the others the name tells the bits."""
    return 1 if dtype == "BOOL" or dtype.startswith("F8_") else int(dtype.lstrip("BFIU")) // 8


def digest_of(header: str) -> str:
    """Return the SHA-256 of a manifest: the header with its length in front, filled up to a multiple of 8."""
    text = header.encode()
    text += b" " * (-len(text) % 8)
    return hashlib.sha256(len(text).to_bytes(8, "little") + text).hexdigest()


def rows_of(header: str) -> list[list[Any]]:
    """Read what `header_of` wrote."""
    return [[name, entry["dtype"], entry["shape"]] for name, entry in json.loads(header).items()]


TYPES: dict[str, Any] = {
    "uid": sa.String(32),
    "header": sa.Text(),
    "manifest_digest": sa.String(64),
    "plan_version": sa.Integer(),
    "rows": DOCUMENT,
}


def each_experiment(source: str, kind: Any, values_of: Callable[[Any], dict[str, Any]]) -> None:
    """Update every experiment with what is made of one of its columns, a few rows at a time."""
    connection = op.get_bind()
    columns = {"id": sa.BigInteger(), source: kind} | TYPES
    experiments = sa.table("experiments", *(sa.column(name, each) for name, each in columns.items()))
    id_ = experiments.c.id
    last = 0
    while True:
        page = sa.select(id_, experiments.c[source]).where(id_ > last).order_by(id_).limit(STEP)
        rows = connection.execute(page).all()
        if not rows:
            return
        changed = [{"of": row.id} | {f"new_{name}": value for name, value in values_of(row[1]).items()} for row in rows]
        values = {name.removeprefix("new_"): sa.bindparam(name) for name in changed[0] if name != "of"}
        connection.execute(sa.update(experiments).where(id_ == sa.bindparam("of")).values(values), changed)
        last = rows[-1].id


def new_values(rows: list[list[Any]]) -> dict[str, Any]:
    """Return what an experiment has from now on; its manifest's rows are given."""
    header = header_of(rows)
    return {
        "uid": secrets.token_hex(16),
        "header": header,
        "manifest_digest": digest_of(header),
        "plan_version": 1,
    }


def where(predicate: str) -> dict[str, Any]:
    """Return the options of a partial index."""
    return {"sqlite_where": sa.text(predicate), "postgresql_where": sa.text(predicate)}


def upgrade() -> None:
    """Go up."""
    for name in OLD_VIEWS:
        op.execute(f"DROP VIEW {name}")
    with op.batch_alter_table("experiments") as batch:
        for name in ("uid", "header", "manifest_digest", "plan_version"):
            batch.add_column(sa.Column(name, TYPES[name], nullable=True))
    each_experiment("manifest", DOCUMENT, new_values)
    with op.batch_alter_table("experiments") as batch:
        batch.drop_column("manifest")
        batch.alter_column("header", new_column_name="manifest", existing_type=sa.Text(), nullable=False)
        for name in ("uid", "manifest_digest", "plan_version"):
            batch.alter_column(name, existing_type=TYPES[name], nullable=False)
        batch.create_unique_constraint("uq_experiments_uid", ["uid"])
    op.rename_table("duties", "periodic_jobs")
    if op.get_bind().dialect.name == "postgresql":
        op.execute("ALTER TABLE periodic_jobs RENAME CONSTRAINT pk_duties TO pk_periodic_jobs")
    else:
        rename_key("periodic_jobs", "pk_duties", "pk_periodic_jobs")
    op.drop_index("uq_blobs_purpose", "blobs")
    op.alter_column("blobs", "purpose", new_column_name="upload_key")
    op.create_index(
        "uq_blobs_upload_key",
        "blobs",
        ["upload_key"],
        unique=True,
        **where("upload_key IS NOT NULL AND state <> 'taken'"),
    )
    op.alter_column("heartbeats", "is_experiment_running", new_column_name="experiment_running")
    op.add_column("heartbeats", sa.Column("session_id", sa.String(32), nullable=True))
    op.add_column("heartbeats", sa.Column("left_at", INSTANT, nullable=True))
    op.add_column("shards", sa.Column("sdk_version", sa.String(255), nullable=True))
    op.add_column("shards", sa.Column("python_version", sa.String(255), nullable=True))
    op.create_index("ix_shards_retired", "shards", ["envoy"], **where("retired_at IS NOT NULL"))
    op.add_column("collaborators", sa.Column("failed_task", sa.String(255), nullable=True))
    op.add_column("collaborators", sa.Column("error_type", sa.String(255), nullable=True))
    for name, query in VIEWS.items():
        op.execute(f"CREATE VIEW {name} AS {query}")


def downgrade() -> None:
    """Go down."""
    for name in VIEWS:
        op.execute(f"DROP VIEW {name}")
    op.drop_column("collaborators", "error_type")
    op.drop_column("collaborators", "failed_task")
    op.drop_index("ix_shards_retired", "shards")
    op.drop_column("shards", "python_version")
    op.drop_column("shards", "sdk_version")
    op.drop_column("heartbeats", "left_at")
    op.drop_column("heartbeats", "session_id")
    op.alter_column("heartbeats", "experiment_running", new_column_name="is_experiment_running")
    op.drop_index("uq_blobs_upload_key", "blobs")
    op.alter_column("blobs", "upload_key", new_column_name="purpose")
    op.create_index(
        "uq_blobs_purpose", "blobs", ["purpose"], unique=True, **where("purpose IS NOT NULL AND state <> 'taken'")
    )
    op.rename_table("periodic_jobs", "duties")
    if op.get_bind().dialect.name == "postgresql":
        op.execute("ALTER TABLE duties RENAME CONSTRAINT pk_periodic_jobs TO pk_duties")
    else:
        rename_key("duties", "pk_periodic_jobs", "pk_duties")
    with op.batch_alter_table("experiments") as batch:
        batch.add_column(sa.Column("rows", DOCUMENT, nullable=True))
    each_experiment("manifest", sa.Text(), lambda header: {"rows": rows_of(header)})
    with op.batch_alter_table("experiments") as batch:
        batch.drop_constraint("uq_experiments_uid", type_="unique")
        for name in ("uid", "manifest_digest", "plan_version", "manifest"):
            batch.drop_column(name)
        batch.alter_column("rows", new_column_name="manifest", existing_type=DOCUMENT, nullable=False)
    for name, query in OLD_VIEWS.items():
        op.execute(f"CREATE VIEW {name} AS {query}")


def rename_key(table: str, old: str, new: str) -> None:
    """Rename the primary key of a small table on SQLite, which has to make the table again for that."""
    with op.batch_alter_table(table, recreate="always") as batch:
        batch.drop_constraint(old, type_="primary")
        batch.create_primary_key(new, ["name"])
