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
from pathlib import Path

import ml_dtypes
import numpy as np
import psutil
import pytest

from director.domain.tensors import Manifest, payload_pieces
from director.envoy.protocol import MAX_TEXT_BYTES, RunTask
from director.envoy.shard_descriptor import ShardSpec
from director.envoy.worker_process import Worker, WorkerFailed

SHARD = """
from director.envoy.shard_descriptor import ShardDescriptor

class Numbers(ShardDescriptor):
    sample_shape = target_shape = ()

    def __init__(self, first=1):
        self.first = first

    def get_dataset(self, kind):
        return [self.first, kind]
"""

MODEL = {
    "weights": np.arange(6, dtype=np.float32).reshape(2, 3),
    "bias": np.array([0.5, -0.5]),
    "half": np.ones(3, ml_dtypes.bfloat16),
    "steps": np.array(7, np.int64),
}


@pytest.fixture
def site(tmp_path, monkeypatch) -> Path:
    """Make a directory with a shard's module in it, on the search path."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "worker_test_shard.py").write_text(SHARD)
    monkeypatch.syspath_prepend(site)
    return site


@pytest.fixture
def workspace(tmp_path) -> Path:
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    return workspace


@pytest.fixture
def worker(site, workspace) -> Worker:
    return Worker(workspace, ShardSpec("worker_test_shard:Numbers", {"first": 41}))


def task(workspace: Path, code: str, *, kind: str = "validate", model=MODEL, settings=None) -> RunTask:
    """Write a task's code and its model, and return the command that runs it."""
    (workspace / "task_code.py").write_text(code)
    manifest = Manifest.of(model)
    (workspace / "model").write_bytes(b"".join(payload_pieces(manifest, model)))
    return RunTask(
        name="a task",
        kind=kind,
        function="task_code:run",
        settings=settings or {},
        round=3,
        model=str(workspace / "model"),
        manifest=manifest.to_json(),
        update=str(workspace / "update"),
    )


def failing_with(error: BaseException) -> str:
    assert isinstance(error, WorkerFailed)
    return str(error)


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


async def test_shard_is_made_in_the_directory_where_the_envoy_was_started(site, workspace, monkeypatch):
    (site / "relative.py").write_text(SHARD.replace("self.first = first", "self.first = int(open('count.txt').read())"))
    (site / "count.txt").write_text("17")
    monkeypatch.chdir(site)
    code = "def run(model, shard, round_number, settings): return shard.get_dataset('train')[0], {}"

    async with Worker(workspace, ShardSpec("relative:Numbers")) as worker:
        done = await worker.run(task(workspace, code))

    assert done.samples == 17


async def test_what_user_code_prints_goes_to_the_log_and_never_into_the_answers(worker, workspace, caplog):
    code = """
import os, subprocess, sys
def run(model, shard, round_number, settings):
    print("by print")
    os.write(1, b'{"message": "TaskDone"}\\n')
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
    assert {"by print", '{"message": "TaskDone"}', "by a child", "progress 1", "progress 2"} <= set(caplog.messages)
    assert sum(message.count("x") for message in caplog.messages if set(message) == {"x"}) == 100_000


async def test_failing_task_tells_its_traceback_without_our_own_frames(worker, workspace):
    code = """
def deeper():
    return 1 / 0
def run(model, shard, round_number, settings):
    return deeper()
"""

    async with worker:
        with pytest.raises(WorkerFailed) as caught:
            await worker.run(task(workspace, code))

    text = failing_with(caught.value)
    assert text.startswith("task 'a task' failed in round 3:\nTraceback")
    assert text.rstrip().endswith("ZeroDivisionError: division by zero")
    assert "in deeper" in text
    assert "worker.py" not in text


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
    ("code", "complaint"),
    [
        ("raise ValueError('at import')", "ValueError: at import"),
        ("import nowhere_to_be_found", "No module named 'nowhere_to_be_found'"),
        ("def run(: pass", "SyntaxError"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("def run(*_): raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("def other(*_): pass", "there is no 'run' in the module 'task_code'"),
        ("run = 3", "is not a function"),
        ("def run(): pass", "takes 0 positional arguments"),
        ("def run(*_): return None", r"returns \(samples, metrics\), not nothing"),
        ("def run(*_): return 1", r"returns \(samples, metrics\), not a value of type int"),
        ("def run(*_): return {}, 1, {}", r"returns \(samples, metrics\), not a tuple of 3"),
        ("def run(*_): return 0, {}", "at least 1, not 0"),
        ("def run(*_): return -1, {}", "at least 1, not -1"),
        ("def run(*_): return 1.5, {}", r"at least 1, not 1\.5"),
        ("def run(*_): return True, {}", "at least 1, not True"),
        ("def run(*_): return 10**30, {}", "at least 1"),
        ("def run(*_): return 1, None", "metrics are a mapping from names to numbers, not nothing"),
        ("def run(*_): return 1, {'accuracy': '0.9'}", "metric 'accuracy' is a number, not a value of type str"),
        ("def run(*_): return 1, {'accuracy': None}", "metric 'accuracy' is a number, not nothing"),
        (
            "import numpy as np\ndef run(*_): return 1, {'a': np.ones(2)}",
            "metric 'a' is a number, not a value of type ndarray",
        ),
        ("def run(*_): return 1, {3: 1.0}", "name is a string that is not empty, not 3"),
        ("def run(*_): return 1, {'': 1.0}", "name is a string that is not empty"),
    ],
)
async def test_validate_task_that_breaks_the_contract_is_told_how(worker, workspace, code, complaint):
    async with worker:
        with pytest.raises(WorkerFailed, match=f"(?s)task 'a task' failed in round 3:.*{complaint}"):
            await worker.run(task(workspace, code))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ("model['weights'] = model['weights'].astype('f8')", r"'weights' is F64 \[2, 3\], the model's is F32"),
        ("model['weights'] = model['weights'][0]", r"'weights' is F32 \[3\], the model's is F32 \[2, 3\]"),
        ("del model['bias']", "tensor 'bias' is missing"),
        ("model['more'] = model['bias']", "tensor 'more' is not one of the model's"),
        ("model.clear()", "the trained model is empty"),
        ("model['bias'] = [1.0, [2.0]]", "tensor 'bias' cannot be made an array"),
        ("model['bias'] = ['a', 'b']", "tensor 'bias' has dtype <U1"),
        ("model['bias'] = object()", "tensor 'bias' has dtype object"),
        ("model[3] = 4", "name is a string, not 3"),
        ("model['weights'][1, 1] = float('nan')", "tensor 'weights' holds NaN or infinity"),
        ("model['bias'][0] = float('-inf')", "tensor 'bias' holds NaN or infinity"),
        ("model['half'][2] = float('inf')", "tensor 'half' holds NaN or infinity"),
        ("model = list(model)", "as a mapping of arrays, not a value of type list"),
    ],
)
async def test_trained_model_that_is_not_the_model_is_refused_by_the_name_of_the_tensor(
    worker, workspace, change, complaint
):
    code = f"def run(model, *_):\n    {change}\n    return model, 1, {{}}"

    async with worker:
        with pytest.raises(WorkerFailed, match=complaint):
            await worker.run(task(workspace, code, kind="train"))


async def test_numbers_of_numpy_lists_and_other_layouts_are_accepted(worker, workspace):
    code = """
import numpy as np
def run(model, shard, round_number, settings):
    model["bias"] = [1.0, 2.0]
    model["weights"] = np.asfortranarray(model["weights"]).astype(">f4")
    model["steps"] = 8
    return model, np.int32(9), {"a": np.float32(0.5), "b": np.array(2), "c": np.bool_(True), "d": float("nan")}
"""

    async with worker:
        done = await worker.run(task(workspace, code, kind="train"))

    expected = {**MODEL, "bias": np.array([1.0, 2.0]), "steps": np.array(8)}
    assert (workspace / "update").read_bytes() == b"".join(payload_pieces(Manifest.of(MODEL), expected))
    assert done.samples == 9
    assert {name: done.metrics[name] for name in "abc"} == {"a": 0.5, "b": 2.0, "c": 1.0}
    assert np.isnan(done.metrics["d"])


async def test_model_without_a_single_number_is_read_and_written(worker, workspace):
    empty = {"nothing": np.zeros((0, 3), np.float32)}

    async with worker:
        done = await worker.run(task(workspace, "def run(model, *_): return model, 1, {}", kind="train", model=empty))

    assert done.size_bytes == 0
    assert done.sha256 == hashlib.sha256(b"").hexdigest()


async def test_text_of_a_failure_is_limited_and_fit_for_any_wire(worker, workspace):
    code = "def run(*_): raise ValueError('a' * 1_000_000 + '\\0 \\udc80 the end')"

    async with worker:
        with pytest.raises(WorkerFailed) as caught:
            await worker.run(task(workspace, code))

    data = failing_with(caught.value).encode("utf-8")
    assert len(data) <= MAX_TEXT_BYTES
    assert b"\0" not in data
    assert data.rstrip().endswith(b"the end")


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
        with pytest.raises(WorkerFailed, match=how):
            await worker.run(task(workspace, code))
        with pytest.raises(WorkerFailed, match=how):
            await worker.run(task(workspace, code))


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
async def test_shard_that_cannot_be_made_in_the_worker_is_an_error(site, workspace, reference, params, complaint):
    with pytest.raises(WorkerFailed, match=complaint):
        await Worker(workspace, ShardSpec(reference, params)).__aenter__()


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


async def test_worker_and_what_it_started_die_with_the_envoy_in_the_middle_of_a_task(site, workspace, tmp_path):
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


def test_worker_speaks_one_json_object_a_line(site, workspace):
    command = task(workspace, "def run(*_): return 2, {'a': 1}")
    lines = [
        {"message": "LoadShard", "reference": "worker_test_shard:Numbers", "params": {}, "workspace": str(workspace)},
        {"message": "RunTask", **{name: getattr(command, name) for name in RunTask.__slots__}},
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

    assert answers[0] == {"message": "ShardLoaded"}
    assert answers[1] == {"message": "TaskDone", "samples": 2, "metrics": {"a": 1.0}, "size_bytes": 0, "sha256": ""}
    assert worker.wait(10) == 0
    worker.stdout.close()
