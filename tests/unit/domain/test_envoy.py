import pytest

from director.domain.envoy import Shard, check_fit
from director.errors import ShardRejected


def a_shard(sample_shape: tuple[int, ...], target_shape: tuple[int, ...] = (1,)) -> Shard:
    return Shard("site", "scans", 10, sample_shape, target_shape)


def test_shard_with_the_federations_shapes_fits():
    check_fit(a_shard((28, 28)), sample_shape=(28, 28), target_shape=(1,))


def test_any_shape_fits_where_the_federation_names_none():
    check_fit(a_shard((28, 28), ()), sample_shape=None, target_shape=None)


def test_empty_shape_is_a_shape():
    check_fit(a_shard((), ()), sample_shape=(), target_shape=())
    with pytest.raises(ShardRejected, match=r"its sample_shape is \[\], the federation's is \[4\]"):
        check_fit(a_shard(()), sample_shape=(4,), target_shape=None)
    with pytest.raises(ShardRejected, match=r"its target_shape is \[1\], the federation's is \[\]"):
        check_fit(a_shard(()), sample_shape=None, target_shape=())


def test_refusal_names_the_envoy():
    with pytest.raises(ShardRejected, match="envoy 'site'"):
        check_fit(a_shard((28,)), sample_shape=(28, 28), target_shape=None)
