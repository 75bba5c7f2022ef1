"""A disk that fills up under a database: it costs time, and nothing else."""

import time
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue

import grpc
import numpy as np
import pytest

from director.client import Federation
from director.client.payloads import spool
from director.client.sending import Orders, requests
from director.domain.commands import SubmitExperiment
from director.errors import DiskFull
from director.v1.experiments_pb2_grpc import ExperimentServiceStub
from director.wire.channels import sync_channel
from tests.acceptance.material import PLAN, WARDS, submit
from tests.acceptance.processes import Machine, eventually
from tests.acceptance.replicas import Replicas, begun
from tests.acceptance.small_disks import MEBIBYTE, SmallDatabase, SmallDisk, SmallPostgres, SmallSqlite
from tests.postgres import PostgresServer

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

LEASE = 2.0
GATED = 2
"""The round in which rome's training does not end before the test lets it."""
DEADLINE = 20.0  # longer than an envoy waits before it asks a director without room again, 5 s and more
FULL_SECONDS = 1.5
PATIENCE = 1.0
"""Seconds for which a client asks a director again that has no room."""


@pytest.fixture
def small(engine_kind: str) -> Iterator[SmallDatabase]:
    """A database on a small disk, on each engine in turn."""
    if engine_kind == "sqlite":
        with SmallDisk(mebibytes=64) as disk:
            yield SmallSqlite(disk)
        return
    with SmallDisk(mebibytes=256) as disk:
        server = PostgresServer(disk.folder)
        try:
            yield SmallPostgres(disk, server)
        finally:
            server.remove()


def test_round_stands_still_without_room_and_goes_on_with_it(small: SmallDatabase, machine: Machine) -> None:
    machine.environment |= small.limits
    federation = Replicas(
        machine, small.url, directors=1, lease=LEASE, rounds=3, plan=f"round_deadline: {DEADLINE}\non_deadline: fail\n"
    )
    gate = machine.folder / "gate"
    rome = federation.start_envoys(WARDS | {"rome": WARDS["rome"].gated(gate, round_number=GATED)})["rome"]
    with Federation(machine.environment["DIRECTOR_ADDRESS"], client_id="ada", patience=PATIENCE) as ada:
        spare = ada.submit("spare", workspace=reviewed(machine.folder), model=model_of(1), collaborators=tuple(WARDS))
        with pytest.raises(DiskFull, match=r"64.0 MiB do not fit into the database: it has room for \d"):
            ada.submit("huge", workspace=machine.folder / "workspace", model=model_of(64), collaborators=tuple(WARDS))
        federation.submit("first")
        eventually(lambda: federation.database.is_half_way(GATED), "oslo has done its part of the round")

        small.crowd()
        full_since = time.monotonic()
        first = ada.experiment("first")
        [wait] = eventually(lambda: [each for each in first.refresh().waiting_for if small.lack in each], "it is full")
        assert machine.say("why", "first") == f"{wait}\n"
        assert wait.startswith("room, as everything does: ")
        assert small.lack in machine.refusal(*submit("second"))
        assert refusal(machine) is grpc.StatusCode.RESOURCE_EXHAUSTED
        spare.cancel()
        spare.remove()
        time.sleep(max(full_since + DEADLINE + 0.5 - time.monotonic(), 0))
        gate.touch()
        rome.wait_for(small.lack)
        assert first.refresh().state == "in_progress"
        assert federation.database.is_half_way(GATED)

        small.relieve()
        federation.finish()

    assert federation.broken_promises() == []


def test_nothing_acknowledged_is_lost_when_the_last_byte_is_taken(small: SmallDatabase, machine: Machine) -> None:
    machine.environment |= {"DIRECTOR_DISK_RESERVE_BYTES": "0"}
    federation = begun(machine, small.url, lease=LEASE, directors=1)
    [director] = federation.directors.values()

    small.disk.fill()
    eventually(lambda: "the database's disk is full" in logged(machine.folder), "somebody is told")
    time.sleep(FULL_SECONDS)
    small.press()
    small.disk.clear()
    small.recover()
    federation.finish()

    assert federation.broken_promises() == []
    assert director.process.poll() is None
    assert "Traceback" not in logged(machine.folder)


def logged(folder: Path) -> str:
    """Return what all processes have logged."""
    return "".join(log.read_text() for log in folder.glob("*.log"))


def reviewed(folder: Path) -> Path:
    """Write a workspace whose plan waits for an operator."""
    (folder / "reviewed" / "plan").mkdir(parents=True)
    (folder / "reviewed" / "plan" / "plan.yaml").write_text(f"{PLAN.format(rounds=1)}review: manual\n")
    return folder / "reviewed"


def model_of(mebibytes: int) -> dict[str, np.ndarray]:
    """Return a model of a size."""
    return {"weights": np.zeros((mebibytes, MEBIBYTE // 4), np.float32)}


def refusal(machine: Machine) -> grpc.StatusCode:
    """Begin to submit an experiment with a model of some size; return the status of the refusal."""
    file = machine.folder / "model"
    upload = spool(model_of(4), file)
    command = SubmitExperiment(
        submission_id="submission-3",
        name="third",
        collaborators=tuple(WARDS),
        archive=upload.payload,
        model=upload,
    )
    orders: Orders = SimpleQueue()
    orders.put(None)
    with sync_channel(machine.environment["DIRECTOR_ADDRESS"], None, "ada") as channel:
        call = ExperimentServiceStub(channel).SubmitExperiment(requests(command, orders), timeout=20)
        with pytest.raises(grpc.RpcError) as refused:
            list(call)
    return refused.value.code()
