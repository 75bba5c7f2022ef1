"""What every service is given: database, disk, settings, entropy, wakeups and the budget of bytes."""

from dataclasses import dataclass, field

from director.effects import Entropy, SystemEntropy
from director.services.budget import Budget
from director.services.disk import Disk
from director.services.wakeups import Wakeups
from director.settings import Settings
from director.store.engine.database import Database


@dataclass(frozen=True)
class Runtime:
    """One process of the director."""

    db: Database
    settings: Settings
    entropy: Entropy = field(default_factory=SystemEntropy)
    wakeups: Wakeups = field(default_factory=Wakeups)
    budget: Budget = field(init=False)
    disk: Disk = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "budget", Budget(self.settings.memory_bytes))
        object.__setattr__(self, "disk", Disk(self.db, self.settings))
        self.db.on_commit = self.wakeups.committed


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes a call."""

    name: str
    operator: bool = False

    @property
    def scope(self) -> str | None:
        """Whose experiments it sees: its own and those shared with it, or all (None)."""
        return None if self.operator else self.name
