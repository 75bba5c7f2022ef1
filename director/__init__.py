"""The director: the durable control plane of federated learning.

`Director` is the central node, `Envoy` the agent at a data owner's site, `DirectorError` the root of every error that
either raises on purpose. They are imported when they are first used.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from director.envoy import Envoy
    from director.errors import DirectorError
    from director.facade import Director

__all__ = ["Director", "DirectorError", "Envoy"]

PLACES = {"Director": "director.facade", "Envoy": "director.envoy", "DirectorError": "director.errors"}


def __getattr__(name: str) -> Any:
    """Import a public name."""
    if name not in PLACES:
        raise AttributeError(f"module 'director' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(PLACES[name]), name)
