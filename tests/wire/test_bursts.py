"""Thousands of calls in one moment: each is answered, none is dropped before its handler runs."""

import asyncio

from director.domain.envoys import Shard
from director.v1 import envoys_pb2
from tests.store.words import one
from tests.wire.calls import on_both_engines

BURST = 200


@on_both_engines
async def test_burst_of_heartbeats_of_one_envoy_is_answered(federation, clients):
    await federation.register("a")
    stub = clients("a").envoys

    answers = await asyncio.gather(*(stub.Heartbeat(envoys_pb2.HeartbeatRequest(envoy="a")) for _ in range(BURST)))

    assert len(answers) == BURST
    assert {answer.period.seconds for answer in answers} == {60}


@on_both_engines
async def test_burst_of_heartbeats_of_many_envoys_is_stored(federation, port, clients):
    names = [f"envoy {number}" for number in range(BURST)]
    for name in names:
        await federation.process.envoys.register(Shard(name, "", 10, (), ()))
    stub = clients("").envoys

    await asyncio.gather(
        *(
            stub.Heartbeat(
                envoys_pb2.HeartbeatRequest(envoy=name, is_experiment_running=True), metadata=[("client_id", name)]
            )
            for name in names
        )
    )

    assert await one(federation.db, "SELECT count(*) FROM heartbeats WHERE is_experiment_running") == BURST
