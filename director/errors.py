"""Every error the director raises on purpose; what a caller may do next is in each class.

DirectorError
├── InvalidArgument         mend the request
│   ├── InvalidPlan
│   ├── InvalidArchive
│   └── TensorMismatch
├── Unauthenticated         ask the operator
├── Forbidden               ask the operator
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
│   └── StaleAttempt
├── ResourceExhausted       send less, or later
│   ├── MessageTooLarge
│   └── DiskFull
├── Unavailable             repeat the same call
├── Corrupt                 upload again
└── SchemaOutdated          run `director db upgrade`

Anything else that is raised is a defect: it is logged with its traceback and answered as "internal error".
"""


class DirectorError(Exception):
    """The root of the tree; its text is written for the person who reads it."""


class InvalidArgument(DirectorError):
    """The request is wrong and stays wrong; mend it."""


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


class NotFound(DirectorError):
    """It is absent, or not the caller's; the two are not told apart."""


class ExperimentNotFound(NotFound):
    """No such experiment, or none that the caller may see."""


class EnvoyNotFound(NotFound):
    """No such envoy; it registers its shard first."""


ShardNotFoundError = EnvoyNotFound
"""The name that the director's users have always known."""


class ModelNotFound(NotFound):
    """The experiment has no model of this number, or keeps it no longer."""


class AlreadyExists(DirectorError):
    """The name is taken by something else; pick another one."""


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


class ResourceExhausted(DirectorError):
    """A limit is reached; send less, or later."""


class MessageTooLarge(ResourceExhausted):
    """The upload is larger than the director accepts."""


class DiskFull(ResourceExhausted):
    """The database has no room, or none but its reserve; repeat the same call once space was freed."""


class Unavailable(DirectorError):
    """The database or the director is away for the moment; repeat the same call."""


PASSING = (Unavailable, DiskFull)
"""What passes by itself, or when an operator acts: whoever runs in the background waits, and tries again."""


class Corrupt(DirectorError):
    """The bytes do not match their digest; upload them again."""


class SchemaOutdated(DirectorError):
    """The database's schema is not one this version runs on; the text says what to type."""
