"""Heartbeats: they keep an envoy online, and tell it when it works on what the director wants no longer."""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import NoReturn

from director.domain.envoys import Shard
from director.envoy.answers import Engagement
from director.envoy.director_client import DirectorClient
from director.errors import DirectorError, EnvoyNotFound

SHORTEST_PERIOD = timedelta(milliseconds=50)

log = logging.getLogger("director.envoy")


class Service:
    """The experiment that an envoy works on, and what the director last said against it."""

    def __init__(self, engagement: Engagement) -> None:
        """Begin to serve."""
        self.engagement = engagement
        self.wanted: Engagement | None = engagement
        self.is_over = asyncio.Event()

    def compare(self, wanted: Engagement | None) -> None:
        """Take in what the director wants; anything else than this ends the service."""
        if wanted != self.engagement and not self.is_over.is_set():
            self.wanted = wanted
            self.is_over.set()


class Heartbeats:
    """Registers an envoy's shard, and sends heartbeats for it."""

    def __init__(self, client: DirectorClient, shard: Shard) -> None:
        """Begin with an envoy that works on nothing."""
        self._client = client
        self._shard = shard
        self._period = SHORTEST_PERIOD
        self._service: Service | None = None

    async def register(self) -> None:
        """Register the shard, or say anew what it is.

        Raises:
            ShardRejected, InvalidArgument, Forbidden, Unauthenticated: the operator has to see to it.
        """
        self._keep(await self._client.register(self._shard))

    @contextmanager
    def serving(self, engagement: Engagement) -> Iterator[Service]:
        """Say in each heartbeat that the envoy works, and compare each answer with what it works on."""
        self._service = Service(engagement)
        try:
            yield self._service
        finally:
            self._service = None

    async def beat(self) -> NoReturn:
        """Send heartbeats for ever; register again when the director does not know the envoy.

        Raises:
            As `register`.
        """
        while True:
            try:
                await self._beat_once()
            except EnvoyNotFound:
                await self.register()
                continue
            except DirectorError as error:
                log.error("the director refused a heartbeat: %s", error)
            await asyncio.sleep(self._period.total_seconds())

    async def _beat_once(self) -> None:
        service = self._service  # what was served when the director was asked: its answer is about that
        pulse = await self._client.heartbeat(is_experiment_running=service is not None)
        self._keep(pulse.period)
        if service is not None:
            service.compare(pulse.engagement)

    def _keep(self, period: timedelta) -> None:
        self._period = max(period, SHORTEST_PERIOD)
