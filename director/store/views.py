"""The reporting views.

Stable names and columns, plain joins over stored columns, so that any engine reads their types.
"""

from sqlalchemy import event

from director.store.tables import ddl, metadata

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
    "report_envoy_uptime": """
        SELECT s.envoy, s.id AS session_id, s.month, s.online_at, s.last_seen_at, s.offline_at, s.online_seconds
        FROM envoy_sessions s
    """,
    "report_failures": """
        SELECT c.experiment_id, e.name AS experiment, e.state AS experiment_state, e.reason AS experiment_reason,
               c.envoy, c.state AS collaborator_state, c.attempt, c.error, c.ended_at, c.failed_task AS task,
               c.error_type, e.uid AS experiment_uid
        FROM collaborators c JOIN experiments e ON e.id = c.experiment_id
        WHERE c.state = 'failed'
    """,
}

for _name, _query in VIEWS.items():
    event.listen(metadata, "after_create", ddl(f"CREATE VIEW {_name} AS {_query}"))
    event.listen(metadata, "before_drop", ddl(f"DROP VIEW IF EXISTS {_name}"))
