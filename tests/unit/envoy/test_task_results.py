"""What a task returns is accepted, or refused by a failure that says what is wrong; a real worker process."""

import hashlib

import numpy as np
import pytest

from director.domain.limits import MAX_FAILURE_TEXT
from director.domain.names import is_storable
from director.domain.tensors import Manifest, payload_pieces
from director.envoy.worker_process import WorkerFailed
from tests.unit.envoy.worker_material import MODEL, task


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

    failure = caught.value.failure
    assert (failure.task, failure.error_type) == ("a task", "ZeroDivisionError")
    assert failure.message.startswith("in round 3:\nTraceback")
    assert failure.message.endswith("ZeroDivisionError: division by zero")
    assert "in deeper" in failure.message
    assert "worker.py" not in failure.message
    assert str(caught.value) == str(failure)


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
        ("def run(*_): return 2**53 + 1, {}", "at least 1"),
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
        with pytest.raises(WorkerFailed, match=f"(?s)task 'a task' failed: [A-Za-z]+: in round 3:.*{complaint}"):
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
    code = """
def run(*_):
    raise type("x" * 300, (Exception,), {})("a" * 1_000_000 + "\\0 \\udc80 the end")
"""

    async with worker:
        with pytest.raises(WorkerFailed) as caught:
            await worker.run(task(workspace, code))

    failure = caught.value.failure
    assert len(failure.message) <= MAX_FAILURE_TEXT
    assert len(failure.error_type) <= 255
    assert is_storable(failure.message)
    assert failure.message.endswith("the end")
