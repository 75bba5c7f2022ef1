"""Thousands of calls in one moment: each is answered, none is dropped before its handler runs."""

import asyncio

from director.v1 import envoys_pb2
from tests.tables import presence_rows
from tests.wire.calls import on_both_engines

BURST = 200


@on_both_engines
async def test_burst_of_heartbeats_of_one_envoy_is_answered(federation, clients):
    [session] = await federation.register("a")
    stub, heartbeat = clients("a").envoys, envoys_pb2.HeartbeatRequest(envoy="a", session_id=session.id)

    answers = await asyncio.gather(*(stub.Heartbeat(heartbeat) for _ in range(BURST)))

    assert len(answers) == BURST
    assert {answer.period.seconds for answer in answers} == {60}


@on_both_engines
async def test_burst_of_heartbeats_of_many_envoys_is_stored(federation, port, clients):
    names = [f"envoy {number}" for number in range(BURST)]
    sessions = await federation.register(*names)
    stub = clients("").envoys

    await asyncio.gather(
        *(
            stub.Heartbeat(
                envoys_pb2.HeartbeatRequest(envoy=name, session_id=session.id, experiment_running=True),
                metadata=[("client_id", name)],
            )
            for name, session in zip(names, sessions, strict=True)
        )
    )

    assert len(await presence_rows.envoys_at_work(federation.db)) == BURST
