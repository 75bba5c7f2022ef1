"""Heartbeats: they keep an envoy online, and tell it when the director no longer wants what it works on."""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import NoReturn

from director.domain.commands import Heartbeat
from director.domain.envoy import Engagement
from director.envoy.devices import Devices
from director.envoy.director_client import DirectorClient
from director.envoy.registration import SESSION_ENDED, Registration
from director.errors import DirectorError, EnvoyRetired

SHORTEST_PERIOD = timedelta(milliseconds=50)

log = logging.getLogger("director.envoy")


class Service:
    """The experiment that an envoy works on, and whether the director still wants it to."""

    def __init__(self, engagement: Engagement) -> None:
        """Begin to serve."""
        self.engagement = engagement
        self.wanted: Engagement | None = engagement
        self.is_over = asyncio.Event()

    def compare(self, wanted: Engagement | None) -> None:
        """End the service if the director wants another engagement, or none."""
        if wanted != self.engagement and not self.is_over.is_set():
            self.wanted = wanted
            self.is_over.set()


class HeartbeatLoop:
    """Sends heartbeats for an envoy, with its devices."""

    def __init__(self, client: DirectorClient, registration: Registration, devices: Devices) -> None:
        """Begin with an envoy that works on nothing."""
        self._client = client
        self._registration = registration
        self._devices = devices
        self._service: Service | None = None

    @contextmanager
    def serving(self, engagement: Engagement) -> Iterator[Service]:
        """Say in each heartbeat that the envoy works, and compare each answer with what it works on."""
        self._service = Service(engagement)
        try:
            yield self._service
        finally:
            self._service = None

    async def run(self) -> NoReturn:
        """Send heartbeats for ever; register again when the session has ended.

        Raises:
            As `Registration.begin`.
        """
        period = self._registration.session.period
        while True:
            session, service = self._registration.session, self._service  # both as of the question, for the answer
            try:
                heartbeat = Heartbeat(
                    envoy=self._registration.envoy,
                    experiment_running=service is not None,
                    devices=await self._devices.read(),
                    session_id=session.id,
                )
                pulse = await self._client.heartbeat(heartbeat)
                period = pulse.period
                if service is not None:
                    service.compare(pulse.engagement)
            except SESSION_ENDED as error:
                if service is not None and isinstance(error, EnvoyRetired):
                    service.compare(None)
                await self._registration.renew(session, error)
                period = SHORTEST_PERIOD  # the next answer says at once what the envoy should be working on
            except DirectorError as error:
                log.error("the director refused a heartbeat: %s", error)
            await asyncio.sleep(max(period, SHORTEST_PERIOD).total_seconds())
