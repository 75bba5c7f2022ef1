"""The envoy: the agent at a data owner's site, which trains there what the director asks for.

Its public names are imported when they are first used, since a worker needs neither gRPC nor asyncio.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from director.envoy.agent import EnvoyAgent
    from director.envoy.shard_descriptor import ShardDescriptor, ShardSpec
    from director.wire.channels import TlsFiles

__all__ = ["EnvoyAgent", "ShardDescriptor", "ShardSpec", "TlsFiles"]

PLACES = {
    "EnvoyAgent": "director.envoy.agent",
    "ShardDescriptor": "director.envoy.shard_descriptor",
    "ShardSpec": "director.envoy.shard_descriptor",
    "TlsFiles": "director.wire.channels",
}


def __getattr__(name: str) -> Any:
    if name not in PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(PLACES[name]), name)
