"""What anyone may ask about the federation, and what operators do with its envoys."""

import logging
from dataclasses import replace

from director.domain.envoy import Envoy, FederationInfo
from director.domain.experiment import Failure
from director.errors import Forbidden, InvalidArgument
from director.services.envoy_use_cases import fail
from director.services.paging import Page, page_of, read_token, size_of
from director.services.runtime import Caller, Runtime
from director.store import envoy_lists, envoys, experiments, federations, retirements
from director.store.engine.database import Transaction
from director.store.envoy_lists import Filter
from director.version import __version__

log = logging.getLogger(__name__)

MAX_NAMES = 1000


class Federations:
    """The use cases of the federation as a whole."""

    def __init__(self, runtime: Runtime) -> None:
        """Serve."""
        self._runtime = runtime
        self._db = runtime.db

    async def info(self) -> FederationInfo:
        """Return what the federation expects of shards."""
        settings = self._runtime.settings
        async with self._db.read() as tx:
            epoch = await federations.epoch(tx)
        return FederationInfo(epoch, settings.sample_shape or (), settings.target_shape or (), __version__)

    async def envoys(
        self, caller: Caller, wanted: Filter | None = None, *, page_size: int = 0, page_token: str = ""
    ) -> Page[Envoy]:
        """Return a page of the envoys, by name; what they work on is named only where the caller may see it.

        Raises:
            InvalidArgument: too many names, or a token that was not given out.
        """
        chosen = wanted or Filter()
        if len(chosen.names) > MAX_NAMES:
            raise InvalidArgument(f"{len(chosen.names)} names; ask for at most {MAX_NAMES} at once")
        size, after = size_of(page_size), read_token(page_token, of="envoys")
        async with self._db.read() as tx:
            lease = self._runtime.settings.lease
            found = await envoy_lists.page(tx, chosen, after=after, limit=size + 1, lease=lease)
            page = page_of(found, [each.name for each in found], size, of="envoys")
            return replace(page, items=await self._with_experiments(tx, page, caller))

    async def _with_experiments(self, tx: Transaction, page: Page[Envoy], caller: Caller) -> list[Envoy]:
        serving = await envoy_lists.serving(tx, [each.name for each in page.items])
        visible = await experiments.identities(tx, sorted(set(serving.values())), caller=caller.scope)
        nothing = ("", "")
        found = []
        for each in page.items:
            uid, name = visible.get(serving[each.name], nothing) if each.name in serving else nothing
            found.append(replace(each, experiment_uid=uid, experiment_name=name))
        return found

    async def retire(self, envoy: str, caller: Caller) -> Envoy:
        """Retire an envoy: it is refused, no experiment waits for it, and registering does not bring it back.

        Raises:
            Forbidden: the caller is not an operator.
            EnvoyNotFound: it never registered.
        """
        require_operator(caller)
        async with self._db.write("retire envoy") as tx:
            if await envoys.retire(tx, envoy, actor=caller.name):
                log.info("envoy %s was retired by %s", envoy, caller.name)
        await self.settle_retired()
        return await self._one(envoy, caller)

    async def restore(self, envoy: str, caller: Caller) -> Envoy:
        """Restore a retired envoy: it may register again.

        Raises:
            Forbidden: the caller is not an operator.
            EnvoyNotFound: it never registered.
        """
        require_operator(caller)
        async with self._db.write("restore envoy") as tx:
            if await envoys.restore(tx, envoy, actor=caller.name):
                log.info("envoy %s was restored by %s", envoy, caller.name)
        return await self._one(envoy, caller)

    async def settle_retired(self) -> None:
        """Take retired envoys out of their experiments, one transaction each. A periodic job does what a death left."""
        while True:
            async with self._db.read() as tx:
                parts = await retirements.open_parts(tx)
            for part in parts:
                async with self._db.write("release retired") as tx:
                    await experiments.lock(tx, part.experiment_id)
                    if await retirements.is_open(tx, part):
                        failure = Failure("an operator retired this envoy")
                        await fail(tx, part.experiment_id, part.envoy, failure, actor=part.envoy)
            if len(parts) < retirements.STEP:
                return

    async def _one(self, envoy: str, caller: Caller) -> Envoy:
        page = await self.envoys(caller, Filter(names=(envoy,), show_retired=True))
        return page.items[0]


def require_operator(caller: Caller) -> None:
    """Refuse a caller who is not an operator.

    Raises:
        Forbidden: it is not.
    """
    if not caller.operator:
        raise Forbidden("only operators retire and restore envoys")
