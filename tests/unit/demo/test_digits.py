"""The demo's data and model, simulated as a federation in plain numpy."""

import subprocess
import sys

import numpy as np
import pytest
import yaml

from director.demo.digits import TOTAL, WORKSPACE, DigitsShard, accuracy, initial_model
from director.demo.workspace import digits_model
from director.domain.tensors import Manifest, payload_pieces
from director.errors import InvalidArgument

PLAN = yaml.safe_load((WORKSPACE / "plan/plan.yaml").read_text())
SETTINGS = PLAN["tasks"][0]["settings"]
CODE = f"""
import sys
from director.demo.digits import DigitsShard, initial_model
from director.demo.workspace import digits_model
from director.domain.tensors import Manifest, payload_pieces
trained, *_ = digits_model.train(initial_model(), DigitsShard(1, 3), 1, {SETTINGS})
sys.stdout.buffer.writelines(payload_pieces(Manifest.of(trained), trained))
"""


def payload(model) -> bytes:
    return b"".join(payload_pieces(Manifest.of(model), model))


def federated_round(model, shards):
    results = [digits_model.train(model, shard, 1, SETTINGS) for shard in shards]
    total = sum(samples for _, samples, _ in results)
    return {
        name: sum(np.float64(samples / total) * trained[name] for trained, samples, _ in results).astype(np.float32)
        for name in model
    }


@pytest.mark.parametrize("parts", [1, 3])
def test_federation_of_a_few_envoys_reads_nine_of_ten_held_out_digits_after_ten_rounds(parts):
    shards = [DigitsShard(part, parts) for part in range(parts)]
    model = initial_model()

    for _ in range(PLAN["rounds"]):
        model = federated_round(model, shards)

    assert accuracy(initial_model()) < 0.3
    assert accuracy(model) >= 0.94


def test_shards_and_held_out_digits_share_no_image_and_leave_none_out():
    shards = [DigitsShard(part, 3) for part in range(3)]

    parts = [shard.indices(kind) for shard in shards for kind in ("train", "validate")]
    parts.append(shards[0].indices("held_out"))

    assert sorted(np.concatenate(parts)) == list(range(TOTAL))
    assert all(np.array_equal(shard.indices("held_out"), parts[-1]) for shard in shards)


def test_shard_is_what_it_says():
    shard = DigitsShard(part=1, parts=3)

    images, targets = shard.get_dataset("train")

    assert images.shape == (shard.samples, *shard.sample_shape)
    assert targets.shape == (shard.samples, *shard.target_shape)
    assert images.min() == 0
    assert images.max() == 1
    assert (targets.sum(axis=1) == 1).all()
    assert shard.dataset_description == "UCI handwritten digits, part 2 of 3"


def test_data_set_has_as_many_digits_as_is_written_here():
    images, _ = DigitsShard().get_dataset("held_out")

    assert len(images) == -(-TOTAL // 5)


@pytest.mark.parametrize(("part", "parts"), [(3, 3), (-1, 3), (0, 0), (0, 100)])
def test_part_that_does_not_exist_is_refused(part, parts):
    with pytest.raises(InvalidArgument, match=f"part {part} of {parts}"):
        DigitsShard(part, parts)


def test_unknown_kind_is_refused():
    with pytest.raises(InvalidArgument, match="no 'test' part"):
        DigitsShard().get_dataset("test")


def test_training_gives_the_same_bits_in_another_process_and_on_unaligned_arrays():
    manifest = Manifest.of(initial_model())
    unaligned = manifest.arrays(memoryview(bytearray(4) + payload(initial_model()))[4:])

    here, *_ = digits_model.train(initial_model(), DigitsShard(1, 3), 1, SETTINGS)
    shifted, *_ = digits_model.train(unaligned, DigitsShard(1, 3), 1, SETTINGS)
    elsewhere = subprocess.check_output([sys.executable, "-c", CODE])

    assert payload(here) == payload(shifted) == elsewhere


def test_training_keeps_names_dtypes_and_shapes_and_does_not_touch_the_model_it_was_given():
    model = initial_model()

    trained, samples, metrics = digits_model.train(model, DigitsShard(0, 3), 1, SETTINGS)

    assert Manifest.of(trained) == Manifest.of(model)
    assert payload(model) == payload(initial_model())
    assert samples == DigitsShard(0, 3).samples
    assert set(metrics) == {"loss"}
