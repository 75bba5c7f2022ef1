"""Topics: what a transaction has changed, for those who wait for it. They are told once it has committed."""

import json
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Topic:
    """Something that somebody waits for: a kind of listener, and which one of this kind.

    A topic carries no data: a listener that is woken reads the rows. Use the constructors; a kind that no listener
    has, as from a newer director, wakes nobody.
    """

    kind: str
    key: int | str | None = None

    @classmethod
    def experiment(cls, experiment_id: int) -> "Topic":
        """Those who follow or drive one experiment."""
        return cls("experiment", experiment_id)

    @classmethod
    def envoy(cls, name: str) -> "Topic":
        """The envoy of this name, which waits for an experiment."""
        return cls("envoy", name)

    @classmethod
    def federation(cls) -> "Topic":
        """Those who follow the federation's own events."""
        return cls("federation")

    @classmethod
    def admission(cls) -> "Topic":
        """Admission, which looks for pending experiments that can start."""
        return cls("admission")

    @classmethod
    def claim(cls) -> "Topic":
        """Execution loops, which look for experiments that have no owner."""
        return cls("claim")

    def encode(self) -> str:
        """Return the topic as a message to other directors."""
        return json.dumps([self.kind, self.key])

    @classmethod
    def decode(cls, message: str) -> "Topic":
        """Read such a message."""
        kind, key = json.loads(message)
        return cls(kind, key)
