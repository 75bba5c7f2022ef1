"""Shards: what a data owner writes to offer a data set, and how an envoy names it.

A shard is named, never handed over: the envoy makes it once to register it, and each worker process makes it again. So
no object crosses from one process to another, and nothing is pickled.
"""

import operator
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from director.domain.envoy import Shard
from director.envoy.references import resolve
from director.errors import DirectorError, InvalidArgument


class ShardDescriptor(ABC):
    """A data set at its owner's site; derive from it and name the class with `director envoy --shard MODULE:CLASS`.

    The constructor is given the shard's parameters as keywords and runs in the directory where the envoy was started;
    tasks run elsewhere, so a relative path is best resolved there. It should be quick: load in `get_dataset`.
    """

    @property
    @abstractmethod
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one sample."""

    @property
    @abstractmethod
    def target_shape(self) -> tuple[int, ...]:
        """Shape of one target."""

    @property
    def dataset_description(self) -> str:
        """What the data set is, for people."""
        return ""

    @property
    def samples(self) -> int:
        """Number of training samples; 0 to leave it unsaid."""
        return 0

    @abstractmethod
    def get_dataset(self, kind: str) -> Any:
        """Return a part of the data set, such as "train" or "validate", in the form that the tasks expect."""


@dataclass(frozen=True, slots=True)
class ShardSpec:
    """A shard by name: the reference "module:Class" and its constructor's parameters, which JSON can hold."""

    reference: str
    params: Mapping[str, Any] = field(default_factory=dict)

    def load(self) -> ShardDescriptor:
        """Make the shard.

        Raises:
            InvalidArgument: the sentence says what is wrong with the reference, the class or the parameters.
        """
        return load(self.reference, self.params)


def load(reference: str, params: Mapping[str, Any]) -> ShardDescriptor:
    """Import a shard's class and make one.

    Raises:
        InvalidArgument: there is no such class, it is not a ShardDescriptor, or it raised.
    """
    try:
        found = resolve(reference)
    except InvalidArgument:
        raise
    except Exception as error:
        raise InvalidArgument(f"importing the shard {reference!r} failed: {_sentence(error)}") from error
    if not isinstance(found, type) or not issubclass(found, ShardDescriptor):
        raise InvalidArgument(f"{reference!r} is not a class derived from ShardDescriptor")
    try:
        return found(**params)
    except Exception as error:
        raise InvalidArgument(f"making the shard {reference!r} failed: {_sentence(error)}") from error


def describe(shard: ShardDescriptor, *, envoy: str) -> Shard:
    """Ask a shard what it holds; return what its envoy tells the director.

    Raises:
        InvalidArgument: it raised, or answers with other types than the class promises.
    """
    try:
        return Shard(
            envoy=envoy,
            description=str(shard.dataset_description),
            samples=_count(shard.samples),
            sample_shape=_shape(shard.sample_shape),
            target_shape=_shape(shard.target_shape),
        )
    except Exception as error:
        raise InvalidArgument(f"the shard {type(shard).__name__} cannot be described: {_sentence(error)}") from error


def _shape(lengths: Iterable[int]) -> tuple[int, ...]:
    return tuple(map(_count, lengths))


def _count(value: int) -> int:
    count = operator.index(value)
    if count < 0:
        raise ValueError(f"{count} is negative")
    return count


def _sentence(error: Exception) -> str:
    return str(error) if isinstance(error, DirectorError) else f"{type(error).__name__}: {error}"
