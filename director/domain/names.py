"""What may be the name of an envoy, an experiment, a user or a task."""

import re
import unicodedata

from director.errors import InvalidArgument

LONGEST = 255
SUBMISSION_ID = re.compile(r"[A-Za-z0-9_-]{8,64}")


def check_name(what: str, name: str) -> str:
    """Return the name, or refuse it.

    Raises:
        InvalidArgument: it is empty, longer than 255 characters, holds a slash or a control character, or is `.` or
        `..`.
    """
    if not name:
        raise InvalidArgument(f"{what} is empty; give it a name")
    if len(name) > LONGEST:
        raise InvalidArgument(f"{what} has {len(name)} characters; at most {LONGEST} are allowed")
    if "/" in name or "\\" in name:
        raise InvalidArgument(f"{what} {name!r} holds a slash; leave it out")
    if any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in name):
        raise InvalidArgument(f"{what} {name!r} holds a control character; leave it out")
    if name in (".", "..") or name != name.strip():
        raise InvalidArgument(f"{what} {name!r} may not be a dot, nor begin or end with a space")
    return name


def check_submission_id(submission_id: str) -> str:
    """Return the id, or refuse it.

    Raises:
        InvalidArgument: it is not 8 to 64 letters, digits, hyphens and underscores.
    """
    if not SUBMISSION_ID.fullmatch(submission_id):
        raise InvalidArgument("the submission id has 8 to 64 characters of A-Z a-z 0-9 - _")
    return submission_id
