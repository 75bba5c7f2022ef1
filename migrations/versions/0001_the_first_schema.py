"""The first schema: every table, index and reporting view."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
INSTANT = sa.DateTime().with_variant(postgresql.TIMESTAMP(timezone=True), "postgresql")
DOCUMENT = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")

STORAGE = {
    "directors": "fillfactor = 50, autovacuum_vacuum_scale_factor = 0.01",
    "service_clocks": "fillfactor = 50, autovacuum_vacuum_scale_factor = 0.01",
    "heartbeats": "fillfactor = 50, autovacuum_vacuum_scale_factor = 0.01",
    "experiments": "fillfactor = 70, autovacuum_vacuum_scale_factor = 0.01",
    "collaborators": "fillfactor = 70, autovacuum_vacuum_scale_factor = 0.01",
    "assignments": "fillfactor = 70, autovacuum_vacuum_scale_factor = 0.01",
}

VIEWS = {
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


def where(predicate: str) -> dict[str, sa.TextClause]:
    """Make an index partial on both engines."""
    return {"sqlite_where": sa.text(predicate), "postgresql_where": sa.text(predicate)}


def upgrade() -> None:
    """Build it."""
    op.create_table(
        "blobs",
        sa.Column("id", KEY, sa.Identity(always=False), nullable=False),
        sa.Column("purpose", sa.Text(), nullable=True),
        sa.Column("digest", sa.String(64), nullable=True),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("chunk_bytes", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("expires_at", INSTANT, nullable=True),
        sa.CheckConstraint("(state = 'taken') = (expires_at IS NULL)", name=op.f("ck_blobs_expires")),
        sa.CheckConstraint("state = 'receiving' OR digest IS NOT NULL", name=op.f("ck_blobs_digest")),
        sa.CheckConstraint("state IN ('receiving', 'complete', 'taken')", name=op.f("ck_blobs_state")),
        sa.CheckConstraint("chunk_bytes > 0", name=op.f("ck_blobs_chunk_bytes")),
        sa.CheckConstraint("size_bytes >= 0", name=op.f("ck_blobs_size_bytes")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_blobs")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_blobs_expires_at", "blobs", ["expires_at"], **where("expires_at IS NOT NULL"))
    op.create_index(
        "uq_blobs_purpose", "blobs", ["purpose"], unique=True, **where("purpose IS NOT NULL AND state <> 'taken'")
    )
    op.create_table(
        "directors",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("host", sa.String(255), nullable=False),
        sa.Column("version", sa.String(32), nullable=False),
        sa.Column("started_at", INSTANT, nullable=False),
        sa.Column("expires_at", INSTANT, nullable=False),
        sa.Column("reaped_at", INSTANT, nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_directors")),
    )
    op.create_table(
        "duties",
        sa.Column("name", sa.String(32), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_duties")),
    )
    op.create_table(
        "events",
        sa.Column("stream", KEY, autoincrement=False, nullable=False),
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("at", INSTANT, nullable=False),
        sa.Column("actor", sa.String(255), nullable=False),
        sa.Column("kind", sa.String(64), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("details", DOCUMENT, nullable=False),
        sa.CheckConstraint("seq > 0", name=op.f("ck_events_seq")),
        sa.PrimaryKeyConstraint("stream", "seq", name=op.f("pk_events")),
    )
    op.create_table(
        "federations",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("epoch", sa.String(32), nullable=False),
        sa.Column("event_seq", sa.BigInteger(), nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.CheckConstraint("id = 1", name=op.f("ck_federations_one_row")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_federations")),
    )
    op.create_table(
        "service_clocks",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("service_seconds", sa.Double(), nullable=False),
        sa.Column("ticked_at", INSTANT, nullable=False),
        sa.Column("up_since", sa.Double(), nullable=False),
        sa.Column("tick_seconds", sa.Double(), nullable=False),
        sa.CheckConstraint("id = 1", name=op.f("ck_service_clocks_one_row")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_service_clocks")),
    )
    op.create_table(
        "shards",
        sa.Column("envoy", sa.String(255), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("samples", sa.BigInteger(), nullable=False),
        sa.Column("sample_shape", DOCUMENT, nullable=False),
        sa.Column("target_shape", DOCUMENT, nullable=False),
        sa.Column("registered_at", INSTANT, nullable=False),
        sa.Column("updated_at", INSTANT, nullable=False),
        sa.Column("retired_at", INSTANT, nullable=True),
        sa.CheckConstraint("samples >= 0", name=op.f("ck_shards_samples")),
        sa.PrimaryKeyConstraint("envoy", name=op.f("pk_shards")),
    )
    op.create_table(
        "blob_chunks",
        sa.Column("blob_id", KEY, autoincrement=False, nullable=False),
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.CheckConstraint("number >= 0", name=op.f("ck_blob_chunks_number")),
        sa.ForeignKeyConstraint(["blob_id"], ["blobs.id"], name=op.f("fk_blob_chunks_blob_id"), ondelete="RESTRICT"),
        sa.PrimaryKeyConstraint("blob_id", "number", name=op.f("pk_blob_chunks")),
    )
    op.create_table(
        "envoy_sessions",
        sa.Column("id", KEY, sa.Identity(always=False), nullable=False),
        sa.Column("envoy", sa.String(255), nullable=False),
        sa.Column("month", sa.String(7), nullable=False),
        sa.Column("online_at", INSTANT, nullable=False),
        sa.Column("last_seen_at", INSTANT, nullable=False),
        sa.Column("offline_at", INSTANT, nullable=True),
        sa.Column("online_seconds", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["envoy"], ["shards.envoy"], name=op.f("fk_envoy_sessions_envoy"), ondelete="RESTRICT"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_envoy_sessions")),
    )
    op.create_index("ix_envoy_sessions_envoy_month", "envoy_sessions", ["envoy", "month"])
    op.create_index("uq_envoy_sessions_open", "envoy_sessions", ["envoy"], unique=True, **where("offline_at IS NULL"))
    op.create_table(
        "experiments",
        sa.Column("id", KEY, sa.Identity(always=False), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("submission_id", sa.String(320), nullable=False),
        sa.Column("owner", sa.String(255), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("plan", DOCUMENT, nullable=False),
        sa.Column("rule", sa.String(64), nullable=False),
        sa.Column("rule_version", sa.Integer(), nullable=False),
        sa.Column("manifest", DOCUMENT, nullable=False),
        sa.Column("archive_digest", sa.String(64), nullable=False),
        sa.Column("archive_blob_id", KEY, nullable=True),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("rank", sa.Double(), nullable=False),
        sa.Column("rounds_total", sa.Integer(), nullable=False),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("last_model", sa.Integer(), nullable=False),
        sa.Column("best_model", sa.Integer(), nullable=True),
        sa.Column("best_score", sa.Double(), nullable=True),
        sa.Column("review_due", sa.Boolean(), nullable=False),
        sa.Column("review_deadline_service", sa.Double(), nullable=True),
        sa.Column("submitted_at", INSTANT, nullable=False),
        sa.Column("eligible_at", INSTANT, nullable=True),
        sa.Column("eligible_service", sa.Double(), nullable=True),
        sa.Column("started_at", INSTANT, nullable=True),
        sa.Column("finished_at", INSTANT, nullable=True),
        sa.Column("removed_at", INSTANT, nullable=True),
        sa.Column("queued_seconds", sa.Double(), nullable=True),
        sa.Column("running_seconds", sa.Double(), nullable=True),
        sa.Column("director_id", sa.String(32), nullable=True),
        sa.Column("fence", sa.BigInteger(), nullable=False),
        sa.Column("crashes", sa.Integer(), nullable=False),
        sa.Column("claimable_from", INSTANT, nullable=False),
        sa.Column("metric_seq", sa.BigInteger(), nullable=False),
        sa.Column("event_seq", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "(finished_at IS NULL) = (state IN ('pending', 'in_progress'))", name=op.f("ck_experiments_finished")
        ),
        sa.CheckConstraint(
            "director_id IS NULL OR state IN ('pending', 'in_progress')", name=op.f("ck_experiments_director")
        ),
        sa.CheckConstraint("state <> 'in_progress' OR started_at IS NOT NULL", name=op.f("ck_experiments_started")),
        sa.CheckConstraint(
            "state IN ('pending', 'in_progress', 'finished', 'failed', 'cancelled', 'rejected')",
            name=op.f("ck_experiments_state"),
        ),
        sa.CheckConstraint("removed_at IS NULL OR finished_at IS NOT NULL", name=op.f("ck_experiments_removed")),
        sa.CheckConstraint("rounds_total > 0", name=op.f("ck_experiments_rounds_total")),
        sa.ForeignKeyConstraint(
            ["archive_blob_id"], ["blobs.id"], name=op.f("fk_experiments_archive_blob_id"), ondelete="RESTRICT"
        ),
        sa.ForeignKeyConstraint(
            ["director_id"], ["directors.id"], name=op.f("fk_experiments_director_id"), ondelete="RESTRICT"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_experiments")),
        sa.UniqueConstraint("submission_id", name=op.f("uq_experiments_submission_id")),
    )
    op.create_index(
        "ix_experiments_claimable",
        "experiments",
        ["rank", "id"],
        **where("director_id IS NULL AND (state = 'in_progress' OR (state = 'pending' AND review_due))"),
    )
    op.create_index("ix_experiments_director_id", "experiments", ["director_id"], **where("director_id IS NOT NULL"))
    op.create_index("ix_experiments_owner", "experiments", ["owner", "id"])
    op.create_index("ix_experiments_pending", "experiments", ["rank", "id"], **where("state = 'pending'"))
    op.create_index(
        "uq_experiments_archive_blob_id",
        "experiments",
        ["archive_blob_id"],
        unique=True,
        **where("archive_blob_id IS NOT NULL"),
    )
    op.create_index("uq_experiments_name", "experiments", ["name"], unique=True, **where("removed_at IS NULL"))
    op.create_table(
        "heartbeats",
        sa.Column("envoy", sa.String(255), nullable=False),
        sa.Column("seen_at", INSTANT, nullable=False),
        sa.Column("seen_service", sa.Double(), nullable=False),
        sa.Column("period_seconds", sa.Double(), nullable=False),
        sa.Column("is_experiment_running", sa.Boolean(), nullable=False),
        sa.Column("devices", DOCUMENT, nullable=False),
        sa.ForeignKeyConstraint(["envoy"], ["shards.envoy"], name=op.f("fk_heartbeats_envoy"), ondelete="RESTRICT"),
        sa.PrimaryKeyConstraint("envoy", name=op.f("pk_heartbeats")),
    )
    op.create_table(
        "collaborators",
        sa.Column("experiment_id", KEY, autoincrement=False, nullable=False),
        sa.Column("envoy", sa.String(255), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("queued_at", INSTANT, nullable=True),
        sa.Column("assigned_at", INSTANT, nullable=True),
        sa.Column("working_at", INSTANT, nullable=True),
        sa.Column("ended_at", INSTANT, nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "(ended_at IS NOT NULL) = (state IN ('done', 'failed', 'released'))", name=op.f("ck_collaborators_ended")
        ),
        sa.CheckConstraint(
            "state IN ('waiting', 'queued', 'assigned', 'working', 'done', 'failed', 'released')",
            name=op.f("ck_collaborators_state"),
        ),
        sa.ForeignKeyConstraint(["envoy"], ["shards.envoy"], name=op.f("fk_collaborators_envoy"), ondelete="RESTRICT"),
        sa.ForeignKeyConstraint(
            ["experiment_id"], ["experiments.id"], name=op.f("fk_collaborators_experiment_id"), ondelete="RESTRICT"
        ),
        sa.PrimaryKeyConstraint("experiment_id", "envoy", name=op.f("pk_collaborators")),
    )
    op.create_index("ix_collaborators_envoy", "collaborators", ["envoy"])
    op.create_index(
        "uq_collaborators_engaged",
        "collaborators",
        ["envoy"],
        unique=True,
        **where("state IN ('queued', 'assigned', 'working')"),
    )
    op.create_table(
        "experiment_users",
        sa.Column("experiment_id", KEY, autoincrement=False, nullable=False),
        sa.Column("user_name", sa.String(255), nullable=False),
        sa.ForeignKeyConstraint(
            ["experiment_id"], ["experiments.id"], name=op.f("fk_experiment_users_experiment_id"), ondelete="RESTRICT"
        ),
        sa.PrimaryKeyConstraint("experiment_id", "user_name", name=op.f("pk_experiment_users")),
    )
    op.create_index("ix_experiment_users_user_name", "experiment_users", ["user_name"])
    op.create_table(
        "metrics",
        sa.Column("experiment_id", KEY, autoincrement=False, nullable=False),
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("origin", sa.String(255), nullable=False),
        sa.Column("task", sa.String(255), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("value", sa.Double(), nullable=True),
        sa.Column("recorded_at", INSTANT, nullable=False),
        sa.CheckConstraint("seq > 0", name=op.f("ck_metrics_seq")),
        sa.ForeignKeyConstraint(
            ["experiment_id"], ["experiments.id"], name=op.f("fk_metrics_experiment_id"), ondelete="RESTRICT"
        ),
        sa.PrimaryKeyConstraint("experiment_id", "seq", name=op.f("pk_metrics")),
    )
    op.create_index("ix_metrics_experiment_id_round", "metrics", ["experiment_id", "round"])
    op.create_table(
        "models",
        sa.Column("experiment_id", KEY, autoincrement=False, nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("payload_blob_id", KEY, nullable=True),
        sa.Column("state_blob_id", KEY, nullable=True),
        sa.Column("score", sa.Double(), nullable=True),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("pruned_at", INSTANT, nullable=True),
        sa.CheckConstraint("(payload_blob_id IS NULL) = (pruned_at IS NOT NULL)", name=op.f("ck_models_pruned")),
        sa.CheckConstraint("number >= 0", name=op.f("ck_models_number")),
        sa.ForeignKeyConstraint(
            ["experiment_id"], ["experiments.id"], name=op.f("fk_models_experiment_id"), ondelete="RESTRICT"
        ),
        sa.ForeignKeyConstraint(
            ["payload_blob_id"], ["blobs.id"], name=op.f("fk_models_payload_blob_id"), ondelete="RESTRICT"
        ),
        sa.ForeignKeyConstraint(
            ["state_blob_id"], ["blobs.id"], name=op.f("fk_models_state_blob_id"), ondelete="RESTRICT"
        ),
        sa.PrimaryKeyConstraint("experiment_id", "number", name=op.f("pk_models")),
    )
    op.create_index(
        "uq_models_payload_blob_id", "models", ["payload_blob_id"], unique=True, **where("payload_blob_id IS NOT NULL")
    )
    op.create_index(
        "uq_models_state_blob_id", "models", ["state_blob_id"], unique=True, **where("state_blob_id IS NOT NULL")
    )
    op.create_table(
        "rounds",
        sa.Column("experiment_id", KEY, autoincrement=False, nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("first_task_service", sa.Double(), nullable=True),
        sa.Column("deadline_service", sa.Double(), nullable=False),
        sa.Column("opened_at", INSTANT, nullable=False),
        sa.Column("frozen_at", INSTANT, nullable=True),
        sa.Column("closed_at", INSTANT, nullable=True),
        sa.Column("collecting_seconds", sa.Double(), nullable=True),
        sa.Column("round_seconds", sa.Double(), nullable=True),
        sa.Column("asked", sa.Integer(), nullable=False),
        sa.Column("counted", sa.Integer(), nullable=True),
        sa.Column("missed", sa.Integer(), nullable=True),
        sa.Column("failed", sa.Integer(), nullable=True),
        sa.Column("samples", sa.BigInteger(), nullable=True),
        sa.Column("score", sa.Double(), nullable=True),
        sa.CheckConstraint(
            "(closed_at IS NOT NULL) = (state IN ('closed', 'abandoned'))", name=op.f("ck_rounds_closed")
        ),
        sa.CheckConstraint("kind IN ('train', 'final')", name=op.f("ck_rounds_kind")),
        sa.CheckConstraint(
            "state IN ('collecting', 'aggregating', 'closed', 'abandoned')", name=op.f("ck_rounds_state")
        ),
        sa.CheckConstraint(
            "state NOT IN ('aggregating', 'closed') OR frozen_at IS NOT NULL", name=op.f("ck_rounds_frozen")
        ),
        sa.CheckConstraint("number > 0", name=op.f("ck_rounds_number")),
        sa.ForeignKeyConstraint(
            ["experiment_id"], ["experiments.id"], name=op.f("fk_rounds_experiment_id"), ondelete="RESTRICT"
        ),
        sa.PrimaryKeyConstraint("experiment_id", "number", name=op.f("pk_rounds")),
    )
    op.create_index(
        "uq_rounds_open", "rounds", ["experiment_id"], unique=True, **where("state IN ('collecting', 'aggregating')")
    )
    op.create_table(
        "assignments",
        sa.Column("experiment_id", KEY, autoincrement=False, nullable=False),
        sa.Column("round", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("envoy", sa.String(255), nullable=False),
        sa.Column("tasks", DOCUMENT, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("asked_at", INSTANT, nullable=False),
        sa.Column("given_at", INSTANT, nullable=True),
        sa.Column("ended_at", INSTANT, nullable=True),
        sa.CheckConstraint("(ended_at IS NULL) = (state = 'asked')", name=op.f("ck_assignments_ended")),
        sa.CheckConstraint("state IN ('asked', 'counted', 'missed', 'failed')", name=op.f("ck_assignments_state")),
        sa.ForeignKeyConstraint(
            ["experiment_id", "envoy"],
            ["collaborators.experiment_id", "collaborators.envoy"],
            name=op.f("fk_assignments_experiment_id_envoy"),
            ondelete="RESTRICT",
        ),
        sa.ForeignKeyConstraint(
            ["experiment_id", "round"],
            ["rounds.experiment_id", "rounds.number"],
            name=op.f("fk_assignments_experiment_id_round"),
            ondelete="RESTRICT",
        ),
        sa.PrimaryKeyConstraint("experiment_id", "round", "envoy", name=op.f("pk_assignments")),
    )
    op.create_table(
        "contributions",
        sa.Column("experiment_id", KEY, autoincrement=False, nullable=False),
        sa.Column("round", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("envoy", sa.String(255), nullable=False),
        sa.Column("task", sa.String(255), nullable=False),
        sa.Column("samples", sa.BigInteger(), nullable=False),
        sa.Column("digest", sa.String(64), nullable=True),
        sa.Column("blob_id", KEY, nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("received_at", INSTANT, nullable=False),
        sa.Column("working_seconds", sa.Double(), nullable=True),
        sa.CheckConstraint("blob_id IS NULL OR digest IS NOT NULL", name=op.f("ck_contributions_digest")),
        sa.CheckConstraint("samples > 0", name=op.f("ck_contributions_samples")),
        sa.ForeignKeyConstraint(["blob_id"], ["blobs.id"], name=op.f("fk_contributions_blob_id"), ondelete="RESTRICT"),
        sa.ForeignKeyConstraint(
            ["experiment_id", "round", "envoy"],
            ["assignments.experiment_id", "assignments.round", "assignments.envoy"],
            name=op.f("fk_contributions_experiment_id_round_envoy"),
            ondelete="RESTRICT",
        ),
        sa.PrimaryKeyConstraint("experiment_id", "round", "envoy", "task", name=op.f("pk_contributions")),
    )
    op.create_index(
        "uq_contributions_blob_id", "contributions", ["blob_id"], unique=True, **where("blob_id IS NOT NULL")
    )
    if op.get_bind().dialect.name == "postgresql":
        for table, storage in STORAGE.items():
            op.execute(f"ALTER TABLE {table} SET ({storage})")
        op.execute("ALTER TABLE blob_chunks ALTER COLUMN data SET STORAGE EXTERNAL")
    for name, query in VIEWS.items():
        op.execute(f"CREATE VIEW {name} AS {query}")


def downgrade() -> None:
    """Take it down again."""
    for name in reversed(VIEWS):
        op.execute(f"DROP VIEW {name}")
    for table in [
        "contributions",
        "assignments",
        "rounds",
        "models",
        "metrics",
        "experiment_users",
        "collaborators",
        "heartbeats",
        "experiments",
        "envoy_sessions",
        "blob_chunks",
        "shards",
        "service_clocks",
        "federations",
        "events",
        "duties",
        "directors",
        "blobs",
    ]:
        op.drop_table(table)
