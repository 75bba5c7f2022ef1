"""Envoys: whom they serve, and when they were online."""

from sqlalchemy import and_, bindparam, func, or_, select

from director.store.engine.database import Transaction
from director.store.envoys import ENGAGED
from director.store.fsck.findings import A_PAGE, Check, Finding, FindingsPage
from director.store.tables import collaborators, envoy_sessions, shards

PAGE = 200

SERVING = (
    select(collaborators.c.envoy, func.count().label("experiments"))
    .where(ENGAGED)
    .group_by(collaborators.c.envoy)
    .having(func.count() > 1)
    .order_by(collaborators.c.envoy)
)
NAMES = select(shards.c.envoy).where(shards.c.envoy > bindparam("after")).order_by(shards.c.envoy).limit(A_PAGE)
S = envoy_sessions.c
IN_ORDER = (
    select(
        S.envoy,
        S.id,
        S.online_at,
        S.offline_at,
        func.lead(S.id).over(partition_by=S.envoy, order_by=(S.online_at, S.id)).label("next_id"),
        func.lead(S.online_at).over(partition_by=S.envoy, order_by=(S.online_at, S.id)).label("next_at"),
    )
    .where(S.envoy.in_(bindparam("names", expanding=True)))
    .subquery()
)
OPEN_ENDED = and_(IN_ORDER.c.next_id.is_not(None), IN_ORDER.c.offline_at.is_(None))
OVERLAPPING = (
    select(IN_ORDER)
    .where(or_(OPEN_ENDED, IN_ORDER.c.next_at < IN_ORDER.c.offline_at))
    .order_by(IN_ORDER.c.envoy, IN_ORDER.c.id)
)


async def engaged_once(tx: Transaction, _after: None) -> FindingsPage:
    """Look for envoys that serve more than one experiment."""
    rows = (await tx.execute(SERVING)).all()
    return FindingsPage(
        [Finding(Check.ENGAGED_ONCE, f"envoy {row.envoy!r}: it serves {row.experiments} experiments") for row in rows]
    )


async def sessions(tx: Transaction, after: str | None) -> FindingsPage:
    """Look for sessions of one envoy that overlap."""
    names = [row.envoy for row in (await tx.execute(NAMES, {"after": after or "", "page": PAGE})).all()]
    findings = [
        Finding(Check.SESSIONS, f"envoy {row.envoy!r}: session {row.next_id} begins before session {row.id} has ended")
        for row in await tx.execute(OVERLAPPING, {"names": names})
    ]
    return FindingsPage(findings, names[-1] if len(names) == PAGE else None)
