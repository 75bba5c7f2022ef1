"""What may be the name of an envoy, an experiment, a user or a task, and what may be a text."""

import re
import unicodedata

from director.domain.limits import MAX_FAILURE_TEXT
from director.errors import InvalidArgument

LONGEST = 255
LONGEST_TEXT = 65536
UID = re.compile(r"[0-9a-fA-F]{32}")
"""An experiment's uid: 128 random bits, written as 32 hexadecimal digits."""
SUBMISSION_ID = re.compile(r"[A-Za-z0-9_-]{8,64}")
UNSTORABLE = re.compile("[\0\ud800-\udfff]")
"""Characters that not every database and wire can hold: NUL, and halves of characters."""


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


def is_uid(text: str) -> bool:
    """Whether a text is written like an experiment's uid."""
    return UID.fullmatch(text) is not None


def check_experiment_name(name: str) -> str:
    """Return the name of an experiment, or refuse it.

    Raises:
        InvalidArgument: as of `check_name`, or it could be taken for a uid.
    """
    if is_uid(name):
        raise InvalidArgument(f"the experiment's name {name!r} looks like a uid, 32 hexadecimal digits; choose another")
    return check_name("the experiment's name", name)


def check_text(what: str, text: str) -> str:
    """Return a text of any lines, or refuse it.

    Raises:
        InvalidArgument: it is longer than 65536 characters, or holds NUL or half a character.
    """
    if len(text) > LONGEST_TEXT:
        raise InvalidArgument(f"{what} has {len(text)} characters; at most {LONGEST_TEXT} are allowed")
    if not is_storable(text):
        raise InvalidArgument(f"{what} holds a NUL character or half a character; leave it out")
    return text


def is_storable(text: str) -> bool:
    """Whether every database and every wire can hold a text."""
    return UNSTORABLE.search(text) is None


def storable(text: str) -> str:
    """Return the end of a failure's message in a form that can be stored; its sender cannot correct a traceback."""
    return UNSTORABLE.sub("\N{REPLACEMENT CHARACTER}", text[-MAX_FAILURE_TEXT:]).strip()


def check_submission_id(submission_id: str) -> str:
    """Return the id, or refuse it.

    Raises:
        InvalidArgument: it is not 8 to 64 letters, digits, hyphens and underscores.
    """
    if not SUBMISSION_ID.fullmatch(submission_id):
        raise InvalidArgument("the submission id has 8 to 64 characters of A-Z a-z 0-9 - _")
    return submission_id
