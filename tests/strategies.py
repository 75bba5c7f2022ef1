"""What Hypothesis draws from: plans, manifests, tensors, updates of a round, and each value that crosses the wire."""

import string
from collections.abc import Mapping
from datetime import UTC, timedelta
from typing import Any

import numpy as np
from hypothesis import strategies as st

from director.domain.aggregation import RULES
from director.domain.commands import Contribute, Heartbeat, ModelReference, ModelUpload, SubmitExperiment
from director.domain.content import Content
from director.domain.envoy import Device, Engagement, Envoy, FederationInfo, Pulse, Session, Shard
from director.domain.experiment import Collaborator, Experiment, Failure
from director.domain.history import Cursor, Event, Metric
from director.domain.tasks import Task
from director.domain.tensor_info import DTYPES, TensorInfo, layout_order
from director.domain.tensors import Manifest
from director.domain.types import Array, CollaboratorState, ExperimentState, TaskKind
from director.domain.work import Idle, Quit, Work

Draw = st.DrawFn

FLOATS = tuple(name for name in DTYPES if name[0] in "FB" and name != "BOOL")
INTEGERS = tuple(name for name in DTYPES if name[0] in "IU")

letters = st.text(string.ascii_lowercase + "_", min_size=1, max_size=8)
"""Names for where the name does not matter."""

names = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Zl", "Zp"), exclude_characters="/\\"),
    min_size=1,
    max_size=255,
).filter(lambda name: name == name.strip() and name not in (".", ".."))
"""All names that envoys and tasks may have."""

texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40)
"""Texts that every database and every wire can hold."""

json_texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63) + 1, 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | json_texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(json_texts, inner, max_size=3),
    max_leaves=8,
)
settings = st.dictionaries(json_texts, json_values, max_size=4)
shares = st.floats(0, 1, exclude_min=True)


def durations(least: int = 1) -> st.SearchStrategy[Any]:
    """Lengths of time up to an hour, in all the ways to write them."""
    return (
        st.integers(least, 3600)
        | st.floats(max(least, 0.001), 3600)
        | st.builds("{}s".format, st.integers(least, 3600))
        | st.builds("{}m".format, st.integers(least, 60))
    )


@st.composite
def raw_plans(draw: Draw) -> dict[str, Any]:
    """Plans as a YAML loader returns them, all of them valid."""
    named = draw(st.lists(names, min_size=1, max_size=4, unique=True))
    training = draw(st.integers(0, len(named) - 1))
    tasks = [
        {
            "name": name,
            "kind": "train" if index == training else "validate",
            "function": f"{draw(letters)}_.tasks:{draw(letters)}_",
            **draw(st.fixed_dictionaries({}, optional={"settings": settings})),
        }
        for index, name in enumerate(named)
    ]
    plan = {"rounds": draw(st.integers(1, 100_000)), "tasks": tasks}
    plan |= draw(
        st.fixed_dictionaries(
            {},
            optional={
                "aggregation": st.fixed_dictionaries({"rule": st.sampled_from([*RULES])}),
                "review": st.sampled_from(["auto", "manual"]),
                "on_deadline": st.sampled_from(["fail", "wait"]),
                "min_collaborators": st.integers(1, 100),
                "required_collaborators": st.lists(names, max_size=3, unique=True),
                "selection": shares,
                "cutoff": durations(),
                "round_deadline": st.just("1h") | st.just("2d"),
                "start_deadline": durations(),
                "envoy_grace": durations(0),
            },
        )
    )
    plan |= draw(
        st.just({})
        | st.fixed_dictionaries({"percentage": shares})
        | st.fixed_dictionaries({"over_selection": st.integers(0, 100)})
    )
    if measured := [name for name in named if name != named[training]]:
        best = {"task": st.sampled_from(measured), "metric": letters, "mode": st.sampled_from(["max", "min"])}
        plan |= draw(st.fixed_dictionaries({}, optional={"best": st.fixed_dictionaries({}, optional=best)}))
    return plan


tensor_infos = st.builds(
    TensorInfo,
    name=st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=11),
    dtype=st.sampled_from([*DTYPES]),
    shape=st.lists(st.integers(0, 5), max_size=3).map(tuple),
)

manifests = st.lists(tensor_infos, min_size=1, max_size=6, unique_by=lambda tensor: tensor.name).map(
    lambda tensors: Manifest(tuple(sorted(tensors, key=layout_order)))
)
"""Models of a few small tensors, of any element types."""


@st.composite
def arrays(draw: Draw, dtype: str, count: int) -> Array:
    """Vectors of any finite values of an element type."""
    kind = DTYPES[dtype]
    drawn = np.frombuffer(draw(st.binary(min_size=count * kind.itemsize, max_size=count * kind.itemsize)), np.uint8)
    if kind == np.bool_:
        return drawn % 2 == 1
    values = drawn.view(kind).copy()
    if dtype in FLOATS:
        with np.errstate(invalid="ignore"):
            values[~np.isfinite(values)] = 0
    return values


@st.composite
def payloads(draw: Draw, manifest: Manifest) -> bytes:
    """Payloads of a model, all their values finite."""
    return b"".join(
        draw(arrays(tensor.dtype, tensor.size_bytes // DTYPES[tensor.dtype].itemsize)).tobytes()
        for tensor in manifest.tensors
    )


@st.composite
def tensors(draw: Draw) -> Mapping[str, Array]:
    """Models in memory."""
    manifest = draw(manifests)
    return manifest.arrays(draw(payloads(manifest)))


def sample_counts(collaborators: int) -> st.SearchStrategy[Array]:
    """As many numbers of training samples, from a handful to millions."""
    counts = st.integers(1, 5) | st.integers(1, 5_000_000)
    return st.lists(counts, min_size=collaborators, max_size=collaborators).map(
        lambda drawn: np.array(drawn, np.float64)
    )


@st.composite
def columns(draw: Draw, dtypes: tuple[str, ...] = tuple(DTYPES)) -> tuple[list[Array], Array]:
    """The same few elements of each collaborator's update, and their samples."""
    dtype = draw(st.sampled_from(dtypes))
    count = draw(st.integers(1, 6))
    collaborators = draw(st.integers(1, 6))
    found = [draw(arrays(dtype, count)) for _ in range(collaborators)]
    return found, draw(sample_counts(collaborators))


@st.composite
def rounds_of_updates(draw: Draw) -> tuple[Manifest, bytes, list[bytes], Array]:
    """A model's manifest, its payload, the collaborators' updates of it in envoy order, and their samples."""
    manifest = draw(manifests)
    base = draw(payloads(manifest))
    updates = draw(st.lists(payloads(manifest), min_size=1, max_size=4))
    return manifest, base, updates, draw(sample_counts(len(updates)))


# What crosses the wire

numbers = st.integers(0, 2**63 - 1)
instants = st.datetimes(timezones=st.just(UTC))
lengths = st.timedeltas(timedelta(0), timedelta(days=3650))
uids = st.text("0123456789abcdef", min_size=32, max_size=32)
digests = st.text("0123456789abcdef", min_size=64, max_size=64)
shapes = st.lists(numbers, max_size=4).map(tuple)

contents = st.builds(Content, size_bytes=numbers, digest=digests)
failures = st.builds(Failure, message=texts, task=texts, error_type=texts)
cursors = st.builds(Cursor, stream=texts, epoch=texts, seq=numbers)
events = st.builds(Event, cursor=cursors, happened_at=instants, actor=texts, kind=texts, reason=texts, details=settings)

devices = st.builds(
    Device,
    index=numbers,
    name=texts,
    memory_total_bytes=numbers,
    memory_used_bytes=numbers,
    utilization=st.none() | st.floats(0, 1),
    driver_version=texts,
)
device_rows = st.lists(devices, max_size=3).map(tuple)
shards = st.builds(Shard, envoy=texts, description=texts, samples=numbers, sample_shape=shapes, target_shape=shapes)
engagements = st.builds(Engagement, experiment_uid=uids, experiment_name=texts, attempt=numbers)
sessions = st.builds(Session, id=texts, period=lengths)
pulses = st.builds(Pulse, period=lengths, engagement=st.none() | engagements)
heartbeats = st.builds(Heartbeat, envoy=texts, experiment_running=st.booleans(), devices=device_rows, session_id=texts)
envoys = st.builds(
    Envoy,
    shard=shards,
    online=st.booleans(),
    experiment_running=st.booleans(),
    last_seen_at=instants,
    heartbeat_period=lengths,
    registered_at=instants,
    experiment_uid=st.just("") | uids,
    experiment_name=texts,
    devices=device_rows,
    sdk_version=texts,
    python_version=texts,
    retired_at=st.none() | instants,
)
federations = st.builds(FederationInfo, epoch=texts, sample_shape=shapes, target_shape=shapes, version=texts)

experiments = st.builds(
    Experiment,
    uid=uids,
    name=texts,
    owner=texts,
    state=st.sampled_from(ExperimentState),
    round=numbers,
    rounds_total=numbers,
    last_model=numbers,
    priority=st.integers(-100, 100),
    submitted_at=instants,
    reason=texts,
    collaborators=st.dictionaries(st.sampled_from(CollaboratorState), st.integers(1, 10_000)),
    best_model=st.none() | numbers,
    best_score=st.none() | st.floats(),
    started_at=st.none() | instants,
    finished_at=st.none() | instants,
    waiting_for=st.lists(texts, max_size=3).map(tuple),
    plan=settings,
)
collaborators = st.builds(
    Collaborator,
    envoy=texts,
    state=st.sampled_from(CollaboratorState),
    attempt=numbers,
    failure=st.none() | failures,
)
metrics = st.builds(
    Metric, cursor=cursors, origin=texts, task=texts, name=texts, value=st.floats(), round=numbers, recorded_at=instants
)
model_choices = st.sampled_from(["best", "last", "initial"]) | numbers
submissions = st.builds(
    SubmitExperiment,
    submission_id=texts,
    name=texts,
    collaborators=st.lists(texts, max_size=3).map(tuple),
    archive=contents,
    model=st.builds(ModelUpload, payload=contents, manifest=manifests)
    | st.builds(ModelReference, experiment_uid=uids, number=numbers),
    users=st.lists(texts, max_size=3).map(tuple),
    priority=st.integers(-100, 100),
)

tasks = st.builds(Task, name=texts, kind=st.sampled_from(TaskKind), function=texts, settings=settings)
works = st.builds(
    Work,
    round_number=numbers,
    base_model=numbers,
    model=contents,
    manifest_digest=digests,
    tasks=st.lists(tasks, max_size=3).map(tuple),
)
answers = works | st.just(Idle()) | st.builds(Quit, reason=texts)
contributions = st.builds(
    Contribute,
    experiment_uid=uids,
    envoy=texts,
    attempt=numbers,
    round_number=numbers,
    task=texts,
    samples=numbers,
    metrics=st.dictionaries(texts, st.floats(), max_size=4),
    update=st.none() | contents,
    manifest_digest=st.just("") | digests,
)
