"""The director: the durable control plane of federated learning.

`Director` is the central node, `EnvoyAgent` the agent at a data owner's site, and `DirectorError` the root of every
error that either raises on purpose. Each is imported when it is first used.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from director.envoy import EnvoyAgent
    from director.errors import DirectorError
    from director.facade import Director

__all__ = ["Director", "DirectorError", "EnvoyAgent"]

PLACES = {"Director": "director.facade", "EnvoyAgent": "director.envoy", "DirectorError": "director.errors"}


def __getattr__(name: str) -> Any:
    """Import a public name."""
    if name not in PLACES:
        raise AttributeError(f"module 'director' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(PLACES[name]), name)
