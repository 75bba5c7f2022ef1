"""The federation, as a researcher or operator sees it from a script or a notebook."""

import getpass
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Self

from director.client import following, packing, sending
from director.client.directors import Directors
from director.client.handle import ExperimentHandle
from director.client.payloads import Model, spool
from director.domain.commands import ModelReference, SubmitExperiment
from director.domain.envoy import Envoy, FederationInfo
from director.domain.experiment import Experiment
from director.domain.history import Cursor, Event
from director.domain.names import is_uid
from director.effects import SystemEntropy
from director.errors import InvalidArgument, Later
from director.v1 import experiments_pb2, federation_pb2
from director.wire import codec
from director.wire.channels import TlsFiles


class Federation:
    """A federation, reached through any of its directors.

    ```python
    with Federation("127.0.0.1:50051") as federation:
        experiment = federation.submit("digits", workspace="digits", model=model, collaborators=["rome", "oslo"])
        experiment.wait()
        best = experiment.model("best")
    ```
    """

    def __init__(
        self, address: str, *, tls: TlsFiles | None = None, client_id: str = "", patience: float = 60.0
    ) -> None:
        """Connect when first asked something.

        `address` is host:port, or several with commas between them: replicas, of which any will do. With TLS you are
        who your certificate says; without, who `client_id` says, by default your login name. `patience` is how long a
        call goes on trying while no director answers, or while the director asks to come back later.

        Units: patience in seconds.

        Raises:
            InvalidArgument: a bad address or client id, or a TLS file that cannot be read.
        """
        name = "" if tls is not None else client_id or login_name()
        self._directors = Directors(address, tls=tls, client_id=name, patience=patience)

    def __enter__(self) -> Self:
        """Return the federation."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self._directors.close()

    def federation(self) -> FederationInfo:
        """Say what the federation expects of shards, and which version its director has."""
        request = federation_pb2.GetFederationRequest()
        return codec.read_federation(self._directors.call(lambda each: each.federation.GetFederation, request))

    def envoys(
        self, names: Sequence[str] = (), *, online: bool | None = None, show_retired: bool = False
    ) -> Iterator[Envoy]:
        """Yield the envoys by name, page by page: all, or only those of some names, or only those online or offline.

        Raises:
            InvalidArgument: more than 1000 names.
        """
        request = federation_pb2.ListEnvoysRequest(names=names, online=online, show_retired=show_retired)
        for page in self._directors.pages(lambda each: each.federation.ListEnvoys, request):
            yield from map(codec.read_envoy, page.envoys)

    def retire_envoy(self, name: str) -> Envoy:
        """Retire an envoy, for operators: it is refused, waited for by no experiment, and cannot register again.

        Raises:
            Forbidden: you are not an operator.
            EnvoyNotFound: there is no envoy of this name.
        """
        request = federation_pb2.RetireEnvoyRequest(envoy=name)
        return codec.read_envoy(self._directors.call(lambda each: each.federation.RetireEnvoy, request))

    def restore_envoy(self, name: str) -> Envoy:
        """Restore a retired envoy, for operators: it may register again.

        Raises:
            Forbidden: you are not an operator.
            EnvoyNotFound: there is no envoy of this name.
        """
        request = federation_pb2.RestoreEnvoyRequest(envoy=name)
        return codec.read_envoy(self._directors.call(lambda each: each.federation.RestoreEnvoy, request))

    def events(self, *, after: Cursor | None = None, follow: bool = False) -> Iterator[Event]:
        """Yield the federation's own events behind a cursor, for operators; with `follow`, without an end.

        These are registrations and presence of envoys, starts and stops of directors, and restores of the database.

        Raises:
            Forbidden: you are not an operator.
            Conflict: the database was restored since, and the cursor means nothing any more; start without one.
            InvalidArgument: the cursor is of another stream.
        """
        return following.federation_events(self._directors, after=after, follow=follow)

    def experiments(self) -> Iterator[Experiment]:
        """Yield your experiments and those shared with you, newest first, page by page."""
        request = experiments_pb2.ListExperimentsRequest()
        for page in self._directors.pages(lambda each: each.experiments.ListExperiments, request):
            yield from map(codec.read_experiment, page.experiments)

    def experiment(self, name_or_uid: str) -> ExperimentHandle:
        """Return an experiment. A text of 32 hexadecimal digits is a uid, which no name may look like.

        Raises:
            ExperimentNotFound: it is absent, or not yours.
        """
        request = experiments_pb2.GetExperimentRequest()
        if is_uid(name_or_uid):
            request.experiment_uid = name_or_uid
        else:
            request.experiment_name = name_or_uid
        message = self._directors.call(lambda each: each.experiments.GetExperiment, request)
        return ExperimentHandle(self._directors, codec.read_experiment(message))

    def submit(
        self,
        name: str,
        *,
        workspace: Path | str | None = None,
        archive: Path | str | None = None,
        model: Model | ModelReference,
        collaborators: Sequence[str],
        users: Sequence[str] = (),
        priority: int = 0,
        submission_id: str | None = None,
    ) -> ExperimentHandle:
        """Submit an experiment: a workspace directory, or an archive made of one, and an initial model.

        The model is arrays by name, the path of a `.safetensors` file, or a `ModelReference` to a model that the
        director holds. The same submission id makes the same experiment, however often it is submitted, and goes on
        with an upload that was cut off. It is drawn at random unless you choose one.

        Raises:
            InvalidArgument: the archive, the plan, the model or a name is wrong; the text says what to correct.
            AlreadyExists: the name is taken.
            ExperimentNotFound, ModelNotFound: the model that is referred to is not there, or not yours.
            Later: no director took it in time; submit it again with the id that the text names.
        """
        chosen_id = submission_id or SystemEntropy().token()
        with TemporaryDirectory(prefix="director-") as folder:
            zipped = packing.ready(_path(workspace), _path(archive), Path(folder, "archive.zip"))
            payload = Path(folder, "model")
            command = SubmitExperiment(
                submission_id=chosen_id,
                name=name,
                collaborators=collaborators,
                archive=packing.content_of(zipped),
                model=model if isinstance(model, ModelReference) else spool(model, payload),
                users=users,
                priority=priority,
            )
            sending.check(command)
            try:
                message = sending.send(self._directors, command, archive=zipped, model=payload)
            except Later as error:
                hint = f"go on by submitting it again with submission id {chosen_id}"
                raise type(error)(f"{error}; {hint}") from None
        return ExperimentHandle(self._directors, codec.read_experiment(message))


def _path(given: Path | str | None) -> Path | None:
    return None if given is None else Path(given)


def login_name() -> str:
    """Return the name of the user whose process this is.

    Raises:
        InvalidArgument: the system does not know.
    """
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError) as error:
        raise InvalidArgument("the system does not know your login name; give a client id") from error
