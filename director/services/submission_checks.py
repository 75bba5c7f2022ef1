"""What a submission may say; checked before any of its bytes are sent."""

from collections.abc import Sequence

from director.domain.commands import SubmitExperiment
from director.domain.content import Content
from director.domain.history import listed
from director.domain.limits import MAX_COLLABORATORS, MAX_USERS
from director.domain.names import check_experiment_name, check_name, check_submission_id
from director.domain.tensors import Manifest
from director.errors import Forbidden, InvalidArgument, TooLarge
from director.services.runtime import Caller
from director.settings import Settings
from director.store import envoys
from director.store.engine.database import Transaction

MAX_PRIORITY = 100


def check(command: SubmitExperiment, caller: Caller, settings: Settings) -> None:
    """Refuse a submission whose names, numbers or sizes are wrong.

    Raises:
        InvalidArgument: a bad name or id, too many users, a bad priority, an empty archive.
        Forbidden: only operators give a priority above 0.
        TooLarge: the archive is larger than the settings allow.
    """
    check_submission_id(command.submission_id)
    check_experiment_name(command.name)
    check_name("the caller's name", caller.name)
    check_collaborators(command.collaborators)
    if len(command.users) > MAX_USERS:
        raise InvalidArgument(f"{len(command.users)} users; an experiment is shared with at most {MAX_USERS}")
    for user in command.users:
        check_name("a user's name", user)
    if abs(command.priority) > MAX_PRIORITY:
        raise InvalidArgument(f"priority {command.priority} is not between -{MAX_PRIORITY} and {MAX_PRIORITY}")
    if command.priority > 0 and not caller.operator:
        raise Forbidden("only operators submit with a priority above 0")
    check_size("archive", command.archive.size_bytes, settings.max_archive_bytes)
    if command.archive.size_bytes == 0:
        raise InvalidArgument("the archive is empty; send a zip file with plan/plan.yaml")


def check_model(content: Content, manifest: Manifest, settings: Settings) -> None:
    """Refuse a model that is too large, or not as long as its manifest says.

    Raises:
        TooLarge, InvalidArgument: the text gives both numbers.
    """
    check_size("model", content.size_bytes, settings.max_model_bytes)
    if content.size_bytes != manifest.size_bytes:
        raise InvalidArgument(f"the model has {content.size_bytes} bytes, its manifest says {manifest.size_bytes}")


def check_size(what: str, size: int, limit: int) -> None:
    """Refuse what is larger than the settings allow.

    Raises:
        TooLarge: the text gives both numbers.
    """
    if size > limit:
        raise TooLarge(f"the {what} has {size} bytes; this director takes at most {limit}")


def check_collaborators(names: Sequence[str]) -> None:
    """Refuse a list of collaborators that is empty, too long, or names one twice.

    Raises:
        InvalidArgument: the text says what is wrong.
    """
    if not names:
        raise InvalidArgument("an experiment needs at least one collaborator")
    if len(names) > MAX_COLLABORATORS:
        raise InvalidArgument(f"{len(names)} collaborators; at most {MAX_COLLABORATORS} take part in an experiment")
    for name in names:
        check_name("a collaborator's name", name)
    if len(set(names)) < len(names):
        raise InvalidArgument("a collaborator is named twice")


async def check_registered(tx: Transaction, names: Sequence[str]) -> None:
    """Refuse collaborators that are not registered, or retired.

    Raises:
        InvalidArgument: the text names them.
    """
    known = await envoys.registered(tx, names)
    if missing := sorted(set(names) - known):
        raise InvalidArgument(f"no envoy is registered as {listed(map(repr, missing))}")
