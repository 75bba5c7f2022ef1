"""The schema: every table with its invariants, as the migrations build it (a test compares the two)."""

from enum import StrEnum

from sqlalchemy import (
    DDL,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    event,
    text,
)

from director.domain.types import (
    AssignmentState,
    BlobState,
    CollaboratorState,
    ExperimentState,
    RoundKind,
    RoundState,
)
from director.store.engine.columns import Bytes, Digest, Document, Instant, Key, Name, Real, State, StoredPlan

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)


def ddl(statement: str) -> DDL:
    """Wrap a statement that is run after a table was made."""
    return DDL(statement)  # type: ignore[no-untyped-call]


def one_of(column: str, states: type[StrEnum]) -> CheckConstraint:
    """Allow a column the values of an enumeration."""
    listed = ", ".join(f"'{state}'" for state in states)
    return CheckConstraint(f"{column} IN ({listed})", name=column)


def sole_owner(table: str, column: str) -> Index:
    """Let a blob have one owner row.

    Partial, since a column under a full unique index cannot be updated under a mild lock.
    """
    return partial(f"uq_{table}_{column}", column, where=f"{column} IS NOT NULL", unique=True)


def partial(name: str, *columns: str, where: str, unique: bool = False) -> Index:
    """Index the rows that a literal predicate picks; both engines use it only for queries that repeat the predicate."""
    return Index(name, *columns, unique=unique, sqlite_where=text(where), postgresql_where=text(where))


federations = Table(
    "federations",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    CheckConstraint("id = 1", name="one_row"),
    Column("epoch", String(32), nullable=False),
    Column("event_seq", BigInteger, nullable=False),
    Column("created_at", Instant, nullable=False),
)

service_clocks = Table(
    "service_clocks",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    CheckConstraint("id = 1", name="one_row"),
    Column("service_seconds", Double, nullable=False),
    Column("ticked_at", Instant, nullable=False),
    Column("up_since", Double, nullable=False),
    Column("tick_seconds", Double, nullable=False),
)

periodic_jobs = Table(
    "periodic_jobs",
    metadata,
    Column("name", String(32), primary_key=True),
)

directors = Table(
    "directors",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("host", Name, nullable=False),
    Column("version", String(32), nullable=False),
    Column("started_at", Instant, nullable=False),
    Column("expires_at", Instant, nullable=False),
    Column("reaped_at", Instant),
)

shards = Table(
    "shards",
    metadata,
    Column("envoy", Name, primary_key=True),
    Column("description", Text, nullable=False),
    Column("samples", BigInteger, nullable=False),
    CheckConstraint("samples >= 0", name="samples"),
    Column("sample_shape", Document, nullable=False),
    Column("target_shape", Document, nullable=False),
    Column("registered_at", Instant, nullable=False),
    Column("updated_at", Instant, nullable=False),
    Column("retired_at", Instant),
    Column("sdk_version", Name),
    Column("python_version", Name),
    partial("ix_shards_retired", "envoy", where="retired_at IS NOT NULL"),
)

heartbeats = Table(
    "heartbeats",
    metadata,
    Column("envoy", Name, ForeignKey("shards.envoy", ondelete="RESTRICT"), primary_key=True),
    Column("seen_at", Instant, nullable=False),
    Column("seen_service", Double, nullable=False),
    Column("period_seconds", Double, nullable=False),
    Column("experiment_running", Boolean, nullable=False),
    Column("devices", Document, nullable=False),
    Column("session_id", String(32)),
    Column("left_at", Instant),
)

envoy_sessions = Table(
    "envoy_sessions",
    metadata,
    Column("id", Key, Identity(), primary_key=True),
    Column("envoy", Name, ForeignKey("shards.envoy", ondelete="RESTRICT"), nullable=False),
    Column("month", String(7), nullable=False),
    Column("online_at", Instant, nullable=False),
    Column("last_seen_at", Instant, nullable=False),
    Column("offline_at", Instant),
    Column("online_seconds", Double, nullable=False),
    partial("uq_envoy_sessions_open", "envoy", where="offline_at IS NULL", unique=True),
    Index("ix_envoy_sessions_envoy_month", "envoy", "month"),
)

blobs = Table(
    "blobs",
    metadata,
    Column("id", Key, Identity(), primary_key=True),
    Column("upload_key", Text),
    Column("digest", Digest),
    Column("size_bytes", BigInteger, nullable=False),
    CheckConstraint("size_bytes >= 0", name="size_bytes"),
    Column("chunk_bytes", BigInteger, nullable=False),
    CheckConstraint("chunk_bytes > 0", name="chunk_bytes"),
    Column("state", State(BlobState), nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("expires_at", Instant),
    one_of("state", BlobState),
    CheckConstraint("(state = 'taken') = (expires_at IS NULL)", name="expires"),
    CheckConstraint("state = 'receiving' OR digest IS NOT NULL", name="digest"),
    partial("uq_blobs_upload_key", "upload_key", where="upload_key IS NOT NULL AND state <> 'taken'", unique=True),
    partial("ix_blobs_expires_at", "expires_at", where="expires_at IS NOT NULL"),
    # An id is never used again: a stream that goes on after its blob was swept must not write into another one.
    sqlite_autoincrement=True,
)

blob_chunks = Table(
    "blob_chunks",
    metadata,
    Column("blob_id", Key, ForeignKey("blobs.id", ondelete="RESTRICT"), primary_key=True, autoincrement=False),
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    CheckConstraint("number >= 0", name="number"),
    Column("data", Bytes, nullable=False),
)

experiments = Table(
    "experiments",
    metadata,
    Column("id", Key, Identity(), primary_key=True),
    Column("uid", String(32), nullable=False),
    Column("name", Name, nullable=False),
    Column("submission_id", String(320), nullable=False),
    Column("owner", Name, nullable=False),
    Column("state", State(ExperimentState), nullable=False),
    Column("reason", Text),
    Column("plan", StoredPlan, nullable=False),
    Column("rule", String(64), nullable=False),
    Column("rule_version", Integer, nullable=False),
    Column("plan_version", Integer, nullable=False),
    Column("manifest", Text, nullable=False),
    Column("manifest_digest", Digest, nullable=False),
    Column("archive_digest", Digest, nullable=False),
    Column("archive_blob_id", Key, ForeignKey("blobs.id", ondelete="RESTRICT")),
    Column("seed", BigInteger, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("rank", Double, nullable=False),
    Column("rounds_total", Integer, nullable=False),
    CheckConstraint("rounds_total > 0", name="rounds_total"),
    Column("round", Integer, nullable=False),
    Column("last_model", Integer, nullable=False),
    Column("best_model", Integer),
    Column("best_score", Real),
    Column("review_due", Boolean, nullable=False),
    Column("review_deadline_service", Double),
    Column("submitted_at", Instant, nullable=False),
    Column("eligible_at", Instant),
    Column("eligible_service", Double),
    Column("started_at", Instant),
    Column("finished_at", Instant),
    Column("removed_at", Instant),
    Column("queued_seconds", Double),
    Column("running_seconds", Double),
    Column("director_id", String(32), ForeignKey("directors.id", ondelete="RESTRICT")),
    Column("fence", BigInteger, nullable=False),
    Column("crashes", Integer, nullable=False),
    Column("claimable_from", Instant, nullable=False),
    Column("metric_seq", BigInteger, nullable=False),
    Column("event_seq", BigInteger, nullable=False),
    one_of("state", ExperimentState),
    CheckConstraint("director_id IS NULL OR state IN ('pending', 'in_progress')", name="director"),
    CheckConstraint("(finished_at IS NULL) = (state IN ('pending', 'in_progress'))", name="finished"),
    CheckConstraint("removed_at IS NULL OR finished_at IS NOT NULL", name="removed"),
    CheckConstraint("state <> 'in_progress' OR started_at IS NOT NULL", name="started"),
    UniqueConstraint("uid"),
    UniqueConstraint("submission_id"),
    sole_owner("experiments", "archive_blob_id"),
    partial("uq_experiments_name", "name", where="removed_at IS NULL", unique=True),
    partial(
        "ix_experiments_claimable",
        "rank",
        "id",
        where="director_id IS NULL AND (state = 'in_progress' OR (state = 'pending' AND review_due))",
    ),
    partial("ix_experiments_director_id", "director_id", where="director_id IS NOT NULL"),
    partial("ix_experiments_pending", "rank", "id", where="state = 'pending'"),
    Index("ix_experiments_owner", "owner", "id"),
)

experiment_users = Table(
    "experiment_users",
    metadata,
    Column(
        "experiment_id", Key, ForeignKey("experiments.id", ondelete="RESTRICT"), primary_key=True, autoincrement=False
    ),
    Column("user_name", Name, primary_key=True),
    Index("ix_experiment_users_user_name", "user_name"),
)

collaborators = Table(
    "collaborators",
    metadata,
    Column(
        "experiment_id", Key, ForeignKey("experiments.id", ondelete="RESTRICT"), primary_key=True, autoincrement=False
    ),
    Column("envoy", Name, ForeignKey("shards.envoy", ondelete="RESTRICT"), primary_key=True),
    Column("state", State(CollaboratorState), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("queued_at", Instant),
    Column("assigned_at", Instant),
    Column("working_at", Instant),
    Column("ended_at", Instant),
    Column("failed_task", Name),
    Column("error_type", Name),
    Column("error", Text),
    one_of("state", CollaboratorState),
    CheckConstraint("(ended_at IS NOT NULL) = (state IN ('done', 'failed', 'released'))", name="ended"),
    partial("uq_collaborators_engaged", "envoy", where="state IN ('queued', 'assigned', 'working')", unique=True),
    Index("ix_collaborators_envoy", "envoy"),
)

rounds = Table(
    "rounds",
    metadata,
    Column(
        "experiment_id", Key, ForeignKey("experiments.id", ondelete="RESTRICT"), primary_key=True, autoincrement=False
    ),
    Column("number", Integer, primary_key=True, autoincrement=False),
    CheckConstraint("number > 0", name="number"),
    Column("kind", State(RoundKind), nullable=False),
    Column("state", State(RoundState), nullable=False),
    Column("first_task_service", Double),
    Column("deadline_service", Double, nullable=False),
    Column("opened_at", Instant, nullable=False),
    Column("frozen_at", Instant),
    Column("closed_at", Instant),
    Column("collecting_seconds", Double),
    Column("round_seconds", Double),
    Column("asked", Integer, nullable=False),
    Column("counted", Integer),
    Column("missed", Integer),
    Column("failed", Integer),
    Column("samples", BigInteger),
    Column("score", Real),
    one_of("kind", RoundKind),
    one_of("state", RoundState),
    CheckConstraint("(closed_at IS NOT NULL) = (state IN ('closed', 'abandoned'))", name="closed"),
    CheckConstraint("state NOT IN ('aggregating', 'closed') OR frozen_at IS NOT NULL", name="frozen"),
    partial("uq_rounds_open", "experiment_id", where="state IN ('collecting', 'aggregating')", unique=True),
)

assignments = Table(
    "assignments",
    metadata,
    Column("experiment_id", Key, primary_key=True, autoincrement=False),
    Column("round", Integer, primary_key=True, autoincrement=False),
    Column("envoy", Name, primary_key=True),
    Column("tasks", Document, nullable=False),
    Column("state", State(AssignmentState), nullable=False),
    Column("asked_at", Instant, nullable=False),
    Column("given_at", Instant),
    Column("ended_at", Instant),
    one_of("state", AssignmentState),
    CheckConstraint("(ended_at IS NULL) = (state = 'asked')", name="ended"),
    ForeignKeyConstraint(["experiment_id", "round"], ["rounds.experiment_id", "rounds.number"], ondelete="RESTRICT"),
    ForeignKeyConstraint(
        ["experiment_id", "envoy"], ["collaborators.experiment_id", "collaborators.envoy"], ondelete="RESTRICT"
    ),
)

contributions = Table(
    "contributions",
    metadata,
    Column("experiment_id", Key, primary_key=True, autoincrement=False),
    Column("round", Integer, primary_key=True, autoincrement=False),
    Column("envoy", Name, primary_key=True),
    Column("task", Name, primary_key=True),
    Column("samples", BigInteger, nullable=False),
    CheckConstraint("samples > 0", name="samples"),
    Column("digest", Digest),
    Column("blob_id", Key, ForeignKey("blobs.id", ondelete="RESTRICT")),
    Column("attempt", Integer, nullable=False),
    Column("received_at", Instant, nullable=False),
    Column("working_seconds", Double),
    sole_owner("contributions", "blob_id"),
    CheckConstraint("blob_id IS NULL OR digest IS NOT NULL", name="digest"),
    ForeignKeyConstraint(
        ["experiment_id", "round", "envoy"],
        ["assignments.experiment_id", "assignments.round", "assignments.envoy"],
        ondelete="RESTRICT",
    ),
)

metrics = Table(
    "metrics",
    metadata,
    Column(
        "experiment_id", Key, ForeignKey("experiments.id", ondelete="RESTRICT"), primary_key=True, autoincrement=False
    ),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    CheckConstraint("seq > 0", name="seq"),
    Column("round", Integer, nullable=False),
    Column("origin", Name, nullable=False),
    Column("task", Name, nullable=False),
    Column("name", Name, nullable=False),
    Column("value", Real),
    Column("recorded_at", Instant, nullable=False),
    Index("ix_metrics_experiment_id_round", "experiment_id", "round"),
)

models = Table(
    "models",
    metadata,
    Column(
        "experiment_id", Key, ForeignKey("experiments.id", ondelete="RESTRICT"), primary_key=True, autoincrement=False
    ),
    Column("number", Integer, primary_key=True, autoincrement=False),
    CheckConstraint("number >= 0", name="number"),
    Column("digest", Digest, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("payload_blob_id", Key, ForeignKey("blobs.id", ondelete="RESTRICT")),
    Column("state_blob_id", Key, ForeignKey("blobs.id", ondelete="RESTRICT")),
    Column("score", Real),
    Column("created_at", Instant, nullable=False),
    Column("pruned_at", Instant),
    sole_owner("models", "payload_blob_id"),
    sole_owner("models", "state_blob_id"),
    CheckConstraint("(payload_blob_id IS NULL) = (pruned_at IS NOT NULL)", name="pruned"),
)

events = Table(
    "events",
    metadata,
    Column("stream", Key, primary_key=True, autoincrement=False),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    CheckConstraint("seq > 0", name="seq"),
    Column("at", Instant, nullable=False),
    Column("actor", Name, nullable=False),
    Column("kind", String(64), nullable=False),
    Column("reason", Text),
    Column("details", Document, nullable=False),
)

FEDERATION_STREAM = 0
"""The federation's own stream of events; every other stream is an experiment's id."""

STORAGE = {
    "directors": "fillfactor = 50, autovacuum_vacuum_scale_factor = 0.01",
    "service_clocks": "fillfactor = 50, autovacuum_vacuum_scale_factor = 0.01",
    "heartbeats": "fillfactor = 50, autovacuum_vacuum_scale_factor = 0.01",
    "experiments": "fillfactor = 70, autovacuum_vacuum_scale_factor = 0.01",
    "collaborators": "fillfactor = 70, autovacuum_vacuum_scale_factor = 0.01",
    "assignments": "fillfactor = 70, autovacuum_vacuum_scale_factor = 0.01",
}
"""Room for updates in place, and early vacuum, for the rows that are rewritten all the time (PostgreSQL)."""

for _table, _storage in STORAGE.items():
    event.listen(
        metadata.tables[_table],
        "after_create",
        ddl(f"ALTER TABLE {_table} SET ({_storage})").execute_if(dialect="postgresql"),
    )
event.listen(
    blob_chunks,
    "after_create",
    # Tensors do not compress, and uncompressed rows can be read in part.
    ddl("ALTER TABLE blob_chunks ALTER COLUMN data SET STORAGE EXTERNAL").execute_if(dialect="postgresql"),
)
