"""The envoy itself: it registers, waits for experiments, and takes part in one after the other, for months."""

import asyncio
import logging
import re
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NoReturn

from director.concurrency import uninterrupted
from director.domain.envoy import Engagement
from director.domain.names import UID, check_name
from director.envoy.connections import Connection, until_answered
from director.envoy.devices import Devices
from director.envoy.director_client import DirectorClient
from director.envoy.heartbeat_loop import HeartbeatLoop, Service
from director.envoy.participation import Review, Site, remove, take_part
from director.envoy.registration import SESSION_ENDED, Registration, pause_after_error
from director.envoy.shard_descriptor import ShardSpec, describe
from director.envoy.side_by_side import until_first
from director.errors import DirectorError, StaleAttempt
from director.wire.channels import TlsFiles, addresses_of

LEFT_BEHIND = re.compile(rf"{UID.pattern}-\d+")

log = logging.getLogger("director.envoy")


class EnvoyAgent:
    """The agent at a data owner's site.

    Args:
        name: Its name in the federation; with TLS the common name of its certificate.
        shard: The data set that it offers.
        director: HOST:PORT of the director; several, separated by commas, are replicas.
        tls: Its certificate, or None for a director on this machine.
        review: Called with each experiment's unpacked workspace; what it does not approve is not run here.
        directory: Where experiments are unpacked, for this envoy alone; by default a temporary directory.
    """

    def __init__(
        self,
        name: str,
        shard: ShardSpec,
        *,
        director: str = "127.0.0.1:50051",
        tls: TlsFiles | None = None,
        review: Review | None = None,
        directory: Path | None = None,
    ) -> None:
        """Check the name and the address; nothing runs yet.

        Raises:
            InvalidArgument: a bad name or address.
        """
        self._name = check_name("the envoy's name", name)
        self._shard = shard
        self._addresses = addresses_of(director)
        self._tls = tls
        self._review = review
        self._directory = directory

    def serve_forever(self) -> None:
        """Run until the process is told to stop (SIGTERM, SIGINT).

        When this returns the worker has ended, its workspace is removed, and the director was told goodbye.

        Raises:
            As `run`.
        """
        asyncio.run(self._run_until_told_to_stop())

    async def run(self) -> None:
        """Run until cancelled; then stop the worker and say goodbye to the director.

        Raises:
            InvalidArgument: the shard cannot be made, or a TLS file cannot be read.
            ShardRejected: its shapes are not the federation's.
            Forbidden, Unauthenticated: the director knows the caller by another name, or not at all.
        """
        shard = describe(await asyncio.to_thread(self._shard.load), envoy=self._name)
        client_id = None if self._tls else self._name
        with workplace(self._directory) as directory:
            site = Site(self._name, self._shard, directory, self._review)
            async with Connection(self._addresses, tls=self._tls, client_id=client_id) as connection:
                client = DirectorClient(connection, self._name)
                registration = Registration(client, shard)
                heartbeats = HeartbeatLoop(client, registration, Devices())
                try:
                    await registration.begin()
                    await until_first(heartbeats.run(), serve(client, registration, heartbeats, site))
                finally:
                    await uninterrupted(registration.end())

    async def _run_until_told_to_stop(self) -> None:
        told = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, told.set)

        async def wait() -> None:
            await told.wait()
            log.info("envoy %s stops", self._name)

        await until_first(self.run(), wait())


async def serve(client: DirectorClient, registration: Registration, heartbeats: HeartbeatLoop, site: Site) -> NoReturn:
    """Take part in one experiment after the other.

    Raises:
        As `Registration.begin`.
    """
    while True:
        session = registration.session
        try:
            engagement = await until_answered(partial(client.wait_experiment, session))
            await serve_one(client, heartbeats, site, engagement)
        except SESSION_ENDED as error:
            await registration.renew(session, error)
        except StaleAttempt as error:
            registration.suspect(error)
            await pause_after_error()
        except DirectorError as error:
            log.error("the director refused: %s", error)
            await pause_after_error()


async def serve_one(client: DirectorClient, heartbeats: HeartbeatLoop, site: Site, engagement: Engagement) -> None:
    """Take part in an experiment until it is over, or the director no longer wants the envoy in it.

    Raises:
        StaleAttempt: the experiment was handed out again, to another process under this name.
        EnvoyRetired: an operator retired the envoy.
    """
    with heartbeats.serving(engagement) as service:
        await until_first(take_part(client, engagement, site), over(service))


async def over(service: Service) -> None:
    """Wait until the director no longer wants the envoy in its experiment.

    Raises:
        StaleAttempt: there is a later attempt at the same experiment.
    """
    await service.is_over.wait()
    mine, wanted = service.engagement, service.wanted
    if wanted is not None and wanted.experiment_uid == mine.experiment_uid:
        raise StaleAttempt(
            f"experiment {mine.experiment_name} was handed out again: attempt {wanted.attempt}, not {mine.attempt}"
        )
    log.info("experiment %s is over for this envoy", mine.experiment_name)


@contextmanager
def workplace(directory: Path | None) -> Iterator[Path]:
    """Yield where to work: the given directory, without what a killed envoy left there, or a temporary one."""
    if directory is None:
        with tempfile.TemporaryDirectory(prefix="director-envoy-", ignore_cleanup_errors=True) as made:
            yield Path(made)
        return
    directory.mkdir(parents=True, exist_ok=True)
    for left in directory.iterdir():
        if LEFT_BEHIND.fullmatch(left.name):
            remove(left)
    yield directory
