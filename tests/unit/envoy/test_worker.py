"""A real worker process, spoken to as the envoy does."""

import asyncio
import hashlib
import json
import logging
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from director.domain.tensors import Manifest, payload_pieces
from director.envoy.protocol import RunTask, TaskDone
from director.envoy.shard_descriptor import ShardSpec
from director.envoy.worker import manifest_in, run_task
from director.envoy.worker_process import Worker, WorkerFailed
from tests.unit.envoy.worker_material import MODEL, SHARD, task


async def test_validate_task_is_given_model_shard_round_and_settings(worker, workspace):
    code = """
def run(model, shard, round_number, settings):
    first, kind = shard.get_dataset("train")
    assert kind == "train" and sorted(model) == ["bias", "half", "steps", "weights"]
    return first, {"sum": model["weights"].sum(), "round": round_number, "rate": settings["rate"]}
"""

    async with worker:
        done = await worker.run(task(workspace, code, settings={"rate": 0.25}))

    assert done.samples == 41
    assert done.metrics == {"sum": 15.0, "round": 3.0, "rate": 0.25}
    assert done.size_bytes == 0
    assert done.sha256 == ""


async def test_train_task_may_change_the_arrays_in_place_and_its_update_is_written_as_a_payload(worker, workspace):
    code = """
def run(model, shard, round_number, settings):
    for array in model.values():
        array += 1
    return model, 5, {}
"""

    async with worker:
        done = await worker.run(task(workspace, code, kind="train"))

    expected = {name: array + array.dtype.type(1) for name, array in MODEL.items()}
    written = (workspace / "update").read_bytes()
    assert written == b"".join(payload_pieces(Manifest.of(MODEL), expected))
    assert done.sha256 == hashlib.sha256(written).hexdigest()
    assert done.size_bytes == len(written)


async def test_model_that_a_task_spoiled_is_whole_again_for_the_next_one(worker, workspace):
    code = """
def run(model, shard, round_number, settings):
    total = float(model["weights"].sum())
    model["weights"][:] = 0
    return 1, {"total": total}
"""

    async with worker:
        command = task(workspace, code)
        first, second = await worker.run(command), await worker.run(command)

    assert first.metrics == second.metrics == {"total": 15.0}


def test_manifest_is_read_once_for_many_tasks_and_again_when_its_file_changed(workspace, monkeypatch):
    reads = []
    decode = Manifest.decode
    monkeypatch.setattr(Manifest, "decode", lambda encoded: reads.append(encoded) or decode(encoded))
    monkeypatch.syspath_prepend(workspace)
    manifest_in.cache_clear()
    command = task(workspace, "def run(model, *_): return len(model), {}")

    first = [run_task(command, None) for _ in range(3)]
    other = task(workspace, "", model={"bias": MODEL["bias"]})
    os.utime(workspace / "manifest", ns=(1, 1))
    second = run_task(other, None)

    assert first == [TaskDone(4, {})] * 3
    assert second == TaskDone(1, {})
    assert len(reads) == 2


async def test_module_state_lasts_from_one_task_to_the_next(worker, workspace):
    code = """
calls = 0
def run(model, shard, round_number, settings):
    global calls
    calls += 1
    return 1, {"calls": calls}
"""

    async with worker:
        command = task(workspace, code)
        await worker.run(command)
        second = await worker.run(command)

    assert second.metrics == {"calls": 2.0}


async def test_workspace_is_the_working_directory_and_comes_first_in_the_search_path(worker, workspace):
    (workspace / "data.txt").write_text("12")
    (workspace / "worker_test_neighbour.py").write_text("number = 30")
    code = """
import sys, os
import worker_test_neighbour
def run(model, shard, round_number, settings):
    assert sys.path[0] == os.getcwd()
    return int(open("data.txt").read()), {"number": worker_test_neighbour.number}
"""

    async with worker:
        done = await worker.run(task(workspace, code))

    assert (done.samples, done.metrics) == (12, {"number": 30.0})


async def test_modules_of_the_workspace_cannot_replace_those_of_the_worker_or_the_shard(worker, workspace):
    for name in ("json", "numpy", "director", "worker_test_shard", "ml_dtypes"):
        (workspace / f"{name}.py").write_text("raise RuntimeError('not mine')")

    async with worker:
        done = await worker.run(task(workspace, "def run(*_): return 1, {}"))

    assert done.samples == 1


async def test_shard_is_made_in_the_directory_where_the_envoy_was_started(shard_folder, workspace, monkeypatch):
    counting = SHARD.replace("self.first = first", "self.first = int(open('count.txt').read())")
    (shard_folder / "relative.py").write_text(counting)
    (shard_folder / "count.txt").write_text("17")
    monkeypatch.chdir(shard_folder)
    code = "def run(model, shard, round_number, settings): return shard.get_dataset('train')[0], {}"

    async with Worker(workspace, ShardSpec("relative:Numbers")) as worker:
        done = await worker.run(task(workspace, code))

    assert done.samples == 17


async def test_what_user_code_prints_goes_to_the_log_and_never_into_the_answers(worker, workspace, caplog):
    code = """
import os, subprocess, sys
def run(model, shard, round_number, settings):
    print("by print")
    os.write(1, b'{"type": "TaskDone"}\\n')
    subprocess.run([sys.executable, "-c", "print('by a child')"], check=True)
    print("progress 1\\rprogress 2", file=sys.stderr)
    sys.stdout.write("x" * 100_000)
    assert sys.stdin.read() == ""
    return 1, {}
"""

    with caplog.at_level(logging.INFO, logger="director.envoy.worker"):
        async with worker:
            done = await worker.run(task(workspace, code))

    assert done.samples == 1
    assert {"by print", '{"type": "TaskDone"}', "by a child", "progress 1", "progress 2"} <= set(caplog.messages)
    assert sum(message.count("x") for message in caplog.messages if set(message) == {"x"}) == 100_000


async def test_worker_goes_on_after_a_task_failed(worker, workspace):
    code = """
def run(model, shard, round_number, settings):
    return settings["samples"], {}
"""

    async with worker:
        with pytest.raises(WorkerFailed):
            await worker.run(task(workspace, code, settings={"samples": 0}))
        done = await worker.run(task(workspace, code, settings={"samples": 6}))

    assert done.samples == 6


@pytest.mark.parametrize(
    ("death", "how"),
    [
        ("os._exit(7)", "with exit status 7"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "killed by SIGKILL; the machine may have run out of memory"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "killed by SIGSEGV"),
        ("os.fork() or time.sleep(60); os._exit(7)", "with exit status 7"),
    ],
)
async def test_worker_that_dies_by_itself_is_an_error_that_says_how(worker, workspace, death, how):
    code = f"import os, signal, time\ndef run(*_):\n    {death}"

    async with worker:
        with pytest.raises(WorkerFailed, match=how) as caught:
            await worker.run(task(workspace, code))
        with pytest.raises(WorkerFailed, match=how):
            await worker.run(task(workspace, code))

    assert (caught.value.failure.task, caught.value.failure.error_type) == ("a task", "")


@pytest.mark.parametrize(
    ("reference", "params", "complaint"),
    [
        ("nowhere:Shard", {}, "there is no module 'nowhere'"),
        ("worker_test_shard:Nothing", {}, "there is no 'Nothing'"),
        ("worker_test_shard:ShardDescriptor", {}, "abstract"),
        ("worker_test_shard:__name__", {}, "not a class derived from ShardDescriptor"),
        ("worker_test_shard:Numbers", {"last": 2}, "unexpected keyword argument 'last'"),
    ],
)
async def test_shard_that_cannot_be_made_in_the_worker_is_an_error(
    shard_folder, workspace, reference, params, complaint
):
    with pytest.raises(WorkerFailed, match=complaint) as caught:
        await Worker(workspace, ShardSpec(reference, params)).__aenter__()

    assert (caught.value.failure.task, caught.value.failure.error_type) == ("", "InvalidArgument")


def processes_with(marker: str) -> list[int]:
    return [each.pid for each in psutil.process_iter(["cmdline"]) if marker in (each.info["cmdline"] or [])]


async def wait_until(condition, seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        await asyncio.sleep(0.02)


BUSY = """
import subprocess, sys
def run(*_):
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", {marker!r}])
    open("started", "w").close()
    while True:
        pass
"""


async def test_stop_kills_the_worker_in_the_middle_of_a_task_and_what_it_started(worker, workspace, tmp_path):
    marker = f"marker-{tmp_path}"

    async with worker:
        running = asyncio.create_task(worker.run(task(workspace, BUSY.format(marker=marker))))
        await wait_until((workspace / "started").exists)
        started = processes_with(marker)
        running.cancel()

    assert len(started) == 1
    await wait_until(lambda: not processes_with(marker))


async def test_stop_does_not_wait_for_a_daemon_that_holds_the_log_open(worker, workspace, tmp_path):
    marker = f"marker-{tmp_path}"
    code = f"""
import subprocess, sys
def run(*_):
    daemon = [sys.executable, "-c", "import time; time.sleep(60)", {marker!r}]
    subprocess.Popen(daemon, start_new_session=True)
    return 1, {{}}
"""

    async with worker:
        await worker.run(task(workspace, code))
        before = time.monotonic()
    seconds = time.monotonic() - before
    for pid in processes_with(marker):
        os.kill(pid, signal.SIGKILL)

    assert seconds < 5


async def test_interrupt_from_the_keyboard_does_not_reach_the_task(worker, workspace):
    code = "import os, signal\ndef run(*_):\n    os.kill(os.getpid(), signal.SIGINT)\n    return 1, {}"

    async with worker:
        done = await worker.run(task(workspace, code))

    assert done.samples == 1


async def test_worker_and_what_it_started_die_with_the_envoy_in_the_middle_of_a_task(shard_folder, workspace, tmp_path):
    marker = f"marker-{tmp_path}"
    command = task(workspace, BUSY.format(marker=marker))
    envoy = f"""
import asyncio, sys
from pathlib import Path
from director.envoy.worker_process import Worker
from director.envoy.protocol import RunTask
from director.envoy.shard_descriptor import ShardSpec
async def main():
    async with Worker(Path({str(workspace)!r}), ShardSpec("worker_test_shard:Numbers")) as worker:
        await worker.run({command!r})
asyncio.run(main())
"""
    search_path = os.pathsep.join(filter(None, sys.path))
    environment = {**os.environ, "PYTHONPATH": search_path}
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", envoy, env=environment)
    await wait_until((workspace / "started").exists)
    workers = psutil.Process(process.pid).children(recursive=True)

    process.kill()
    await process.wait()

    assert len(workers) == 2
    await wait_until(lambda: not any(each.is_running() for each in workers))


def test_worker_speaks_one_json_object_a_line(shard_folder, workspace):
    command = task(workspace, "def run(*_): return 2, {'a': 1}")
    lines = [
        {"type": "LoadShard", "reference": "worker_test_shard:Numbers", "params": {}, "workspace": str(workspace)},
        {"type": "RunTask", **{name: getattr(command, name) for name in RunTask.__slots__}},
    ]
    search_path = os.pathsep.join(filter(None, sys.path))
    worker = subprocess.Popen(
        [sys.executable, "-m", "director.envoy.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": search_path},
    )
    assert worker.stdin is not None
    assert worker.stdout is not None

    answers = []
    for line in lines:
        worker.stdin.write(json.dumps(line).encode() + b"\n")
        worker.stdin.flush()
        answers.append(json.loads(worker.stdout.readline()))
    worker.stdin.close()

    assert answers[0] == {"type": "ShardLoaded"}
    assert answers[1] == {"type": "TaskDone", "samples": 2, "metrics": {"a": 1.0}, "size_bytes": 0, "sha256": ""}
    assert worker.wait(10) == 0
    worker.stdout.close()
