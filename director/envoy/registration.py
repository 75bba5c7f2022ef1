"""The envoy's registration at the director: its shard, and the session that its calls carry."""

import asyncio
import logging

from director.domain.envoy import Session, Shard
from director.effects import Entropy, SystemEntropy, monotonic
from director.envoy.director_client import DirectorClient
from director.errors import DirectorError, EnvoyNotFound, EnvoyRetired, StaleSession

AFTER_ERROR_SECONDS = 5.0
RETIRED_SECONDS = 60.0
INCIDENT_SECONDS = 600.0
"""Signs of another process that follow each other more quickly than this belong together; the first is a warning."""

SESSION_ENDED = (EnvoyNotFound, StaleSession, EnvoyRetired)
"""The answers to a call after which the envoy registers again."""

log = logging.getLogger("director.envoy")


class Registration:
    """Registers an envoy's shard, and registers it again when its session has ended."""

    def __init__(self, client: DirectorClient, shard: Shard, entropy: Entropy | None = None) -> None:
        """Begin without a session."""
        self._client = client
        self._shard = shard
        self._entropy = entropy or SystemEntropy()
        self._session: Session | None = None
        self._renewing = asyncio.Lock()
        self._suspected_at: float | None = None

    @property
    def envoy(self) -> str:
        """The envoy's name."""
        return self._shard.envoy

    @property
    def session(self) -> Session:
        """The session that began last; the shard was registered before."""
        assert self._session is not None
        return self._session

    async def begin(self) -> None:
        """Register the shard; begin a session. A retired envoy waits here until an operator restores it.

        Raises:
            ShardRejected, InvalidArgument, Forbidden, Unauthenticated: the operator of the envoy must act.
        """
        is_retired = False
        while True:
            try:
                self._session = await self._client.register(self._shard)
            except EnvoyRetired as error:
                if not is_retired:
                    log.warning("%s; envoy %s keeps asking until then", error, self.envoy)
                is_retired = True
                await asyncio.sleep(RETIRED_SECONDS * (0.5 + self._entropy.fraction()))
            else:
                log.info("envoy %s is registered: %s", self.envoy, self._shard.description)
                return

    async def renew(self, ended: Session, error: DirectorError) -> None:
        """Begin another session after a call in this one was refused, unless another task has done so already.

        Raises:
            As `begin`.
        """
        async with self._renewing:
            if self._session is not ended:
                return
            if isinstance(error, StaleSession):
                self.suspect(error)
                await pause_after_error()
            await self.begin()

    def suspect(self, error: DirectorError) -> None:
        """Log that another process may be running under this name; as a warning once in each incident."""
        now = monotonic()
        is_new = self._suspected_at is None or now - self._suspected_at > INCIDENT_SECONDS
        self._suspected_at = now
        log.log(
            logging.WARNING if is_new else logging.DEBUG,
            "another process may be running as envoy %s, or the director's database was restored: %s",
            self.envoy,
            error,
        )

    async def end(self) -> None:
        """Say goodbye to the director, if it can be reached at once."""
        if self._session is None:
            return
        try:
            await self._client.leave(self._session)
        except DirectorError as error:
            log.info("no director heard the goodbye of envoy %s: %s", self.envoy, error)


async def pause_after_error() -> None:
    """Wait before the next attempt at something that the director refused."""
    await asyncio.sleep(AFTER_ERROR_SECONDS)
