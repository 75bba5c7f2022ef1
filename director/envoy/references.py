"""References like "module:name", by which shards and tasks are named."""

from importlib import import_module
from operator import attrgetter
from typing import Any

from director.errors import InvalidArgument


def resolve(reference: str) -> Any:
    """Import what a reference names.

    An error that the module raises while it is imported is not caught.

    Raises:
        InvalidArgument: the text is not a reference, there is no such module, or it has no such name.
    """
    module_name, colon, name = reference.partition(":")
    if not colon or not all(part.isidentifier() for part in (*module_name.split("."), *name.split("."))):
        raise InvalidArgument(f"{reference!r} does not name anything; write MODULE:NAME")
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module_name}.".startswith(f"{error.name}."):
            raise InvalidArgument(f"there is no module {error.name!r}, named in {reference!r}") from error
        raise
    try:
        return attrgetter(name)(module)
    except AttributeError as error:
        raise InvalidArgument(f"there is no {name!r} in the module {module_name!r}") from error
