"""For researchers: submit experiments, follow them and fetch their models, from a script or a notebook."""

from director.client.answers import (
    CollaboratorInfo,
    DeviceInfo,
    EnvoyInfo,
    Event,
    ExperimentInfo,
    FederationInfo,
    Metric,
)
from director.client.federation import Federation
from director.client.handle import ExperimentHandle
from director.domain.types import ExperimentState
from director.wire.channels import TlsFiles

__all__ = [
    "CollaboratorInfo",
    "DeviceInfo",
    "EnvoyInfo",
    "Event",
    "ExperimentHandle",
    "ExperimentInfo",
    "ExperimentState",
    "Federation",
    "FederationInfo",
    "Metric",
    "TlsFiles",
]
