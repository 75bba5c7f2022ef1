"""For researchers: submit experiments, follow them and fetch their models, from a script or a notebook."""

from director.client.federation import Federation
from director.client.handle import ExperimentHandle
from director.domain.commands import ModelReference
from director.domain.envoy import Device, Envoy, FederationInfo
from director.domain.experiment import Collaborator, Experiment
from director.domain.history import Cursor, Event, Metric
from director.domain.types import ExperimentState
from director.wire.channels import TlsFiles

__all__ = [
    "Collaborator",
    "Cursor",
    "Device",
    "Envoy",
    "Event",
    "Experiment",
    "ExperimentHandle",
    "ExperimentState",
    "Federation",
    "FederationInfo",
    "Metric",
    "ModelReference",
    "TlsFiles",
]
