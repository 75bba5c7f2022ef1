"""The model that a submission begins from: uploaded with it, or one that the director holds and copies."""

from dataclasses import dataclass

from director.domain.commands import ModelReference, SubmitExperiment
from director.domain.content import Content
from director.domain.tensors import Manifest
from director.errors import NotFound
from director.services.runtime import Caller
from director.store import experiments, models
from director.store.engine.database import Database
from director.store.stash import Blob


@dataclass(frozen=True, slots=True)
class InitialModel:
    """The model that an experiment starts from; `source` is the stored model that it copies, if it is not uploaded."""

    content: Content
    manifest: Manifest
    source: Blob | None = None

    @property
    def part(self) -> str:
        """The part of the submission that holds its bytes.

        A copy is sealed without being hashed, so that it must not go on with chunks of an upload, nor of another blob.
        """
        return "model" if self.source is None else f"copy/{self.source.id}"


async def find(db: Database, command: SubmitExperiment, caller: Caller, *, key: str) -> InitialModel:
    """Return the model that a submission of this key begins from.

    Raises:
        ExperimentNotFound, ModelNotFound: the model that it refers to is not there, or not the caller's to see.
    """
    if not isinstance(command.model, ModelReference):
        return InitialModel(command.model.payload, command.model.manifest)
    async with db.read() as tx:
        try:
            experiment = await experiments.find(tx, command.model.experiment_uid, caller=caller.scope)
            stored = await models.get(tx, experiment.id, command.model.number)
        except NotFound:
            # The source may be gone since the submission was stored: the experiment made of it holds the copy.
            made = await experiments.by_submission(tx, key)
            if made is None or made.removed_at is not None:
                raise
            experiment, stored = made, await models.get(tx, made.id, 0)
    return InitialModel(stored.blob.content, experiment.manifest, stored.blob)
