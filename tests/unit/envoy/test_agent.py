"""What an envoy looks at before it calls a director: its name, its shard, and the directory where it works."""

import pytest

import director
from director.envoy import EnvoyAgent, ShardSpec
from director.envoy.agent import workplace
from director.errors import InvalidArgument


def test_package_offers_the_agent():
    assert director.EnvoyAgent is EnvoyAgent


async def test_shard_that_cannot_be_made_ends_the_envoy_before_it_calls_a_director():
    with pytest.raises(InvalidArgument, match="there is no module 'nowhere'"):
        await EnvoyAgent("oslo", ShardSpec("nowhere:Shard")).run()


def test_bad_name_or_address_is_refused_at_once():
    with pytest.raises(InvalidArgument, match="holds a slash"):
        EnvoyAgent("a/b", ShardSpec("m:C"))
    with pytest.raises(InvalidArgument, match="HOST:PORT"):
        EnvoyAgent("a", ShardSpec("m:C"), director="nowhere")


def test_directory_is_cleared_of_what_a_killed_envoy_left_and_of_nothing_else(tmp_path):
    left, kept = tmp_path / f"{'0a' * 16}-3", tmp_path / "mine-3"
    for folder in (left, kept):
        (folder / "workspace").mkdir(parents=True)

    with workplace(tmp_path) as directory:
        assert directory == tmp_path
        assert list(tmp_path.iterdir()) == [kept]


def test_without_a_directory_a_temporary_one_is_made_and_removed():
    with workplace(None) as directory:
        (directory / "file").touch()

    assert not directory.exists()
