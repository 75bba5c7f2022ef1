"""Shards are named, and a name that leads nowhere is one clear sentence."""

import numpy as np
import pytest

from director.domain.envoy import Shard
from director.envoy.shard_descriptor import ShardDescriptor, ShardSpec, describe, load
from director.errors import InvalidArgument


class Scans(ShardDescriptor):
    def __init__(self, rows: int = 4) -> None:
        self.rows = rows

    @property
    def sample_shape(self):
        return self.rows, np.int64(3)

    @property
    def target_shape(self):
        return [1]

    def get_dataset(self, kind):
        return []


class Broken(Scans):
    def __init__(self):
        raise OSError("the disk is not mounted")


class Talkative(Scans):
    samples = 12
    dataset_description = "scans of hearts"


class Secretive(Scans):
    samples = "many"


class Impossible(Scans):
    samples = -3


class NoShard:
    pass


def test_shard_is_made_with_its_parameters():
    shard = ShardSpec(f"{__name__}:Scans", {"rows": 7}).load()

    assert shard.sample_shape == (7, 3)


def test_shard_that_says_nothing_of_itself_has_no_description_and_no_number_of_samples():
    described = describe(Scans(), envoy="a")

    assert described == Shard(envoy="a", description="", samples=0, sample_shape=(4, 3), target_shape=(1,))


def test_shard_is_described_by_what_it_says():
    info = describe(Talkative(), envoy="a")

    assert (info.description, info.samples) == ("scans of hearts", 12)


@pytest.mark.parametrize("shard", [Secretive(), Impossible()])
def test_shard_that_says_nonsense_cannot_be_described(shard):
    with pytest.raises(InvalidArgument, match=f"the shard {type(shard).__name__} cannot be described"):
        describe(shard, envoy="a")


@pytest.mark.parametrize(
    ("reference", "complaint"),
    [
        ("", "write MODULE:NAME"),
        ("module", "write MODULE:NAME"),
        ("module:", "write MODULE:NAME"),
        (":Class", "write MODULE:NAME"),
        ("a b:Class", "write MODULE:NAME"),
        ("../module:Class", "write MODULE:NAME"),
        ("no_such_module_anywhere:Class", "there is no module 'no_such_module_anywhere'"),
        ("director.nothing:Class", r"there is no module 'director\.nothing'"),
        (f"{__name__}:Nothing", "there is no 'Nothing' in the module"),
        (f"{__name__}:NoShard", "not a class derived from ShardDescriptor"),
        (f"{__name__}:pytest", "not a class derived from ShardDescriptor"),
        (f"{__name__}:ShardDescriptor", "making the shard .* failed: TypeError"),
        (f"{__name__}:Broken", "failed: OSError: the disk is not mounted"),
    ],
)
def test_reference_that_names_no_shard_is_refused(reference, complaint):
    with pytest.raises(InvalidArgument, match=complaint):
        load(reference, {})


def test_unknown_parameter_is_refused():
    with pytest.raises(InvalidArgument, match="unexpected keyword argument 'columns'"):
        load(f"{__name__}:Scans", {"columns": 3})


@pytest.mark.parametrize(
    ("code", "complaint"),
    [
        ("import a_module_that_is_missing", "ModuleNotFoundError: No module named 'a_module_that_is_missing'"),
        ("1 / 0", "ZeroDivisionError"),
        ("def (", "SyntaxError"),
    ],
)
def test_module_that_cannot_be_imported_is_one_sentence(tmp_path, monkeypatch, code, complaint):
    (tmp_path / "broken_shard_module.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)

    with pytest.raises(InvalidArgument, match=f"importing the shard 'broken_shard_module:Class' failed: {complaint}"):
        load("broken_shard_module:Class", {})
