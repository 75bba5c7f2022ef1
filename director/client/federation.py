"""The federation, as a researcher or operator sees it from a script or a notebook."""

import getpass
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Self

from director.client import packing, sending
from director.client.answers import (
    EnvoyInfo,
    ExperimentInfo,
    FederationInfo,
    envoy_of,
    experiment_of,
    federation_of,
)
from director.client.directors import CALL_SECONDS, Directors
from director.client.handle import ExperimentHandle
from director.client.payloads import Model, spool
from director.effects import SystemEntropy
from director.errors import InvalidArgument, Unavailable
from director.v1 import experiments_pb2 as pb
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
        call goes on trying while no director answers.

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
        request = pb.GetFederationRequest()
        return federation_of(self._directors.call(lambda stub: stub.GetFederation(request, timeout=CALL_SECONDS)))

    def envoys(self) -> list[EnvoyInfo]:
        """List the envoys, and whether they are online."""
        request = pb.ListEnvoysRequest()
        answer = self._directors.call(lambda stub: stub.ListEnvoys(request, timeout=CALL_SECONDS))
        return [envoy_of(each) for each in answer.envoys]

    def experiments(self) -> Iterator[ExperimentInfo]:
        """Yield your experiments and those shared with you, newest first, page by page."""
        request = pb.ListExperimentsRequest()
        while True:
            page = self._directors.call(lambda stub: stub.List(request, timeout=CALL_SECONDS))
            yield from map(experiment_of, page.experiments)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    def experiment(self, name: str) -> ExperimentHandle:
        """Return an experiment.

        Raises:
            ExperimentNotFound: it is absent, or not yours.
        """
        request = pb.GetExperimentRequest(name=name)
        message = self._directors.call(lambda stub: stub.Get(request, timeout=CALL_SECONDS))
        return ExperimentHandle(self._directors, experiment_of(message))

    def submit(
        self,
        name: str,
        *,
        workspace: Path | str | None = None,
        archive: Path | str | None = None,
        model: Model,
        collaborators: Sequence[str],
        users: Sequence[str] = (),
        priority: int = 0,
        submission_id: str | None = None,
    ) -> ExperimentHandle:
        """Submit an experiment: a workspace directory, or an archive made of one, and an initial model.

        The same submission id makes the same experiment, however often it is submitted, and goes on with an upload that
        was cut off. It is drawn at random unless you choose one.

        Raises:
            InvalidArgument: the archive, the plan, the model or a name is wrong; the text says what to mend.
            AlreadyExists: the name is taken.
            Unavailable: no director answered; submit it again with the id that the text names.
        """
        chosen_id = submission_id or SystemEntropy().token()
        with TemporaryDirectory(prefix="director-") as folder:
            zipped = packing.ready(_path(workspace), _path(archive), Path(folder, "archive.zip"))
            payload = spool(model, Path(folder, "model"))
            described = sending.submission(
                name,
                submission_id=chosen_id,
                archive=zipped,
                model=payload,
                collaborators=collaborators,
                users=users,
                priority=priority,
            )
            try:
                message = sending.send(self._directors, described, archive=zipped, model=payload.path)
            except Unavailable as error:
                raise Unavailable(f"{error}; go on by submitting it again with submission id {chosen_id}") from None
        return ExperimentHandle(self._directors, experiment_of(message))


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
