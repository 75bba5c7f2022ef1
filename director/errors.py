"""Every error that the director raises on purpose. Its class says what a caller may do next.

DirectorError
├── InvalidArgument         correct the request
│   ├── InvalidPlan
│   ├── InvalidArchive
│   └── TensorMismatch
├── Unauthenticated         ask the operator
├── Forbidden               ask the operator
│   └── EnvoyRetired
├── NotFound                look elsewhere
│   ├── ExperimentNotFound
│   ├── EnvoyNotFound (ShardNotFoundError)
│   └── ModelNotFound
├── AlreadyExists           pick another name
├── PreconditionFailed      wait for another state
│   ├── ShardRejected
│   ├── RoundClosed
│   └── ModelNotReady
├── Conflict                start again one step higher
│   ├── LeaseLost
│   ├── StaleAttempt
│   └── StaleSession
├── TooLarge                send less
├── Later                   repeat the same call after `retry_after`
│   ├── Overloaded
│   ├── DiskFull
│   └── Unavailable
├── Corrupt                 upload again
└── SchemaOutdated          run `director db upgrade`

Any other exception is a defect: it is logged with its traceback and answered as "internal error".
"""

from datetime import timedelta


class DirectorError(Exception):
    """The root of the tree; its text is written for the person who reads it."""


class InvalidArgument(DirectorError):
    """The request is wrong and stays wrong; correct it."""


class InvalidPlan(InvalidArgument):
    """The plan cannot be run; the text names the key."""


class InvalidArchive(InvalidArgument):
    """The archive is not a safe zip file with a plan in it."""


class TensorMismatch(InvalidArgument):
    """The tensors are not those of the experiment's model, or hold NaN or infinity."""


class Unauthenticated(DirectorError):
    """The caller did not say who it is; present a certificate or a client id."""


class Forbidden(DirectorError):
    """The caller may not do this; ask the operator."""


class EnvoyRetired(Forbidden):
    """An operator retired this envoy; it is refused until an operator restores it."""


class NotFound(DirectorError):
    """It is absent, or not the caller's; the two are not told apart."""


class ExperimentNotFound(NotFound):
    """The experiment does not exist, or the caller may not see it."""


class EnvoyNotFound(NotFound):
    """The envoy does not exist; it registers its shard first."""


ShardNotFoundError = EnvoyNotFound
"""The name that the director's users have always known."""


class ModelNotFound(NotFound):
    """The experiment has no model of this number, or no longer keeps it."""


class AlreadyExists(DirectorError):
    """The name belongs to something else; pick another one."""


class PreconditionFailed(DirectorError):
    """Not in this state; wait for another one."""


class ShardRejected(PreconditionFailed):
    """The shard's shapes are not those of the federation."""


class RoundClosed(PreconditionFailed):
    """The round no longer takes contributions from this envoy: the result came late."""


class ModelNotReady(PreconditionFailed):
    """No round has closed yet."""


class Conflict(DirectorError):
    """Somebody else acted first; start again one step higher."""


class LeaseLost(Conflict):
    """Another director owns the experiment now; stop working on it."""


class StaleAttempt(Conflict):
    """The envoy was given the experiment again since; this process is an older one and stops."""


class StaleSession(Conflict):
    """The envoy's session has ended, or another process began a newer one; register to begin the next."""


class TooLarge(DirectorError):
    """The request is larger than the director accepts; send less."""


class Later(DirectorError):
    """It cannot be done at this moment; repeat the same call after `retry_after`."""

    retry_after = timedelta(seconds=1)


class Overloaded(Later):
    """Too much is asked at once; repeat the same call after the delay."""


class DiskFull(Later):
    """The database has no room, or only its reserve; repeat the same call once space was freed."""

    retry_after = timedelta(seconds=5)


class Unavailable(Later):
    """The database or the director is away for the moment; repeat the same call, at another replica if there is one."""

    retry_after = timedelta(seconds=0.2)


class Corrupt(DirectorError):
    """The bytes do not match their digest; upload them again."""


class SchemaOutdated(DirectorError):
    """This version does not run on the database's schema; the text says what to type."""
