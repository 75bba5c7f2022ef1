"""Reading the keys of a plan: a function for each kind of value. It is given the value's path, for its one refusal.

A key that is left out and a key that is empty are the same.
"""

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any, NoReturn, TypeVar

from director.domain import durations, names
from director.errors import InvalidArgument, InvalidPlan

T = TypeVar("T")
D = TypeVar("D")
Option = TypeVar("Option", bound=str)
Reader = Callable[[object, str], T]

LONGEST_LINE = 255
DEEPEST = 32
LARGEST = 2**63 - 1
SHOWN = 60


def refuse(value: object, path: str, wanted: str) -> NoReturn:
    """Raise the one sentence: what stands at the path, and what should."""
    raise InvalidPlan(f"{path} is {shown(value)}; it should be {wanted}")


def shown(value: object) -> str:
    """Name a value in a few words."""
    match value:
        case None:
            return "missing"
        case bool():
            return str(value).lower()
        case list():
            return "a list"
        case Mapping():
            return "a mapping"
        case int() if abs(value) > LARGEST:
            return "a number of more than 64 bits"
        case str() | int() | float():
            written = ascii(value[:SHOWN]) if isinstance(value, str) and not names.is_storable(value) else repr(value)
            return written if len(written) <= SHOWN else f"{written[:SHOWN]}…"
        case _:
            return f"a {type(value).__name__}"


def below(path: str, key: object) -> str:
    """Return the path of a key in the mapping at a path."""
    own = key if isinstance(key, str) and key.isidentifier() else shown(key)
    return f"{path}.{own}" if path else own


class Fields:
    """The keys of a mapping, all of them known.

    Raises:
        InvalidPlan: it is not a mapping, or it holds an unknown key.
    """

    def __init__(self, raw: object, path: str, known: Sequence[str]) -> None:
        """Take the mapping at a path; the path of the plan itself is empty."""
        if not isinstance(raw, Mapping):
            refuse(raw, path or "the plan", f"a mapping with the keys {', '.join(known)}")
        self._raw = raw
        self._path = path
        for key in raw:
            if key not in known:
                near = difflib.get_close_matches(str(key), known, n=1)
                hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
                raise InvalidPlan(f"{below(path, key)} is not a key of the plan; {hint}")

    def required(self, key: str, read: Reader[T]) -> T:
        """Read a key that has to be there."""
        return read(self._raw.get(key), below(self._path, key))

    def optional(self, key: str, read: Reader[T], default: D) -> T | D:
        """Read a key that may be left out."""
        return default if self._raw.get(key) is None else self.required(key, read)

    def present(self, readers: Mapping[str, Reader[Any]]) -> dict[str, Any]:
        """Read those of these keys that are there, each with its reader."""
        return {key: self.required(key, read) for key, read in readers.items() if self._raw.get(key) is not None}


def whole(least: int, most: int) -> Reader[int]:
    """Return a reader of whole numbers."""

    def read(value: object, path: str) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            refuse(value, path, f"a whole number from {least} to {most}")
        return value

    return read


def truth(value: object, path: str) -> bool:
    """Read true or false."""
    if not isinstance(value, bool):
        refuse(value, path, "true or false")
    return value


def share(value: object, path: str) -> float:
    """Read a number above 0 and up to 1."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= 1:
        refuse(value, path, "a number above 0 and up to 1")
    return float(value)


def duration(least: timedelta) -> Reader[timedelta]:
    """Return a reader of lengths of time."""

    def read(value: object, path: str) -> timedelta:
        try:
            length = durations.parse(value)
        except ValueError:
            length = None
        if length is None or length < least:
            bound = "above 0" if least else "not below 0"
            refuse(value, path, f"a number of seconds, or like 90s, 30m, 24h or 2d, {bound} and up to 3650d")
        return length

    return read


def text(value: object, path: str) -> str:
    """Read a line of text."""
    if not isinstance(value, str) or not 1 <= len(value) <= LONGEST_LINE or not value.isprintable():
        refuse(value, path, f"a text of 1 to {LONGEST_LINE} printable characters")
    return value


def name(value: object, path: str) -> str:
    """Read the name of an envoy or a task."""
    if not isinstance(value, str):
        refuse(value, path, "a name")
    try:
        return names.check_name(path, value)
    except InvalidArgument as error:
        raise InvalidPlan(str(error)) from None


def choice(*options: Option) -> Reader[Option]:
    """Return a reader of one of a few words."""

    def read(value: object, path: str) -> Option:
        for option in options:
            if isinstance(value, str) and value == option:
                return option
        refuse(value, path, " or ".join(options))

    return read


def each(read_one: Reader[T], wanted: str) -> Reader[tuple[T, ...]]:
    """Return a reader of lists, given the reader of their items and what they are called."""

    def read(value: object, path: str) -> tuple[T, ...]:
        if not isinstance(value, list):
            refuse(value, path, f"a list of {wanted}")
        return tuple(read_one(item, f"{path}[{index}]") for index, item in enumerate(value))

    return read


def mapping(value: object, path: str) -> dict[str, Any]:
    """Read a mapping, whatever it holds."""
    if not isinstance(value, dict):
        refuse(value, path, "a mapping")
    return value


def json_object(value: object, path: str) -> dict[str, Any]:
    """Read a mapping that JSON can carry."""
    found: dict[str, Any] = json_value(mapping(value, path), path)
    return found


def json_value(value: object, path: str, depth: int = 0) -> Any:
    """Read anything that JSON and every engine can carry."""
    if depth > DEEPEST:
        raise InvalidPlan(f"{path[:SHOWN]}… is nested too deeply; at most {DEEPEST} levels are allowed")
    match value:
        case None | bool():
            return value
        case int() if abs(value) <= LARGEST:
            return value
        case float() if math.isfinite(value):
            return value
        case str() if names.is_storable(value):
            return value
        case list():
            return [json_value(item, f"{path}[{index}]", depth + 1) for index, item in enumerate(value)]
        case dict():
            for key in value:
                if not isinstance(key, str) or not names.is_storable(key):
                    raise InvalidPlan(f"{path} has the key {shown(key)}; keys should be texts, so put it in quotes")
            return {key: json_value(item, below(path, key), depth + 1) for key, item in value.items()}
        case _:
            refuse(value, path, "a text, a finite number of 64 bits, true, false, a list or a mapping")
