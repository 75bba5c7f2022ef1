"""The envoy itself: registers, waits for experiments, takes part in one after the other, for months."""

import asyncio
import logging
import re
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from director.domain.names import check_name
from director.envoy.answers import Engagement
from director.envoy.connections import Connection, until_answered
from director.envoy.director_client import DirectorClient
from director.envoy.participation import Review, Site, remove, take_part
from director.envoy.pulse import Heartbeats, Service
from director.envoy.shard_descriptor import ShardSpec, describe
from director.envoy.side_by_side import until_first
from director.errors import DirectorError, EnvoyNotFound, StaleAttempt
from director.wire.channels import TlsFiles, addresses_of

AFTER_ERROR_SECONDS = 5.0
LEFT_BEHIND = re.compile(r"\d+-\d+")

log = logging.getLogger("director.envoy")


class Envoy:
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
        """Prepare an envoy; nothing runs yet.

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
        """Run until the process is told to stop (SIGTERM, SIGINT); the worker is gone then, and so is its workspace.

        Raises:
            As `run`.
        """
        asyncio.run(self._run_until_told_to_stop())

    async def run(self) -> None:
        """Run until cancelled.

        Raises:
            InvalidArgument: the shard cannot be made, or a TLS file not be read.
            ShardRejected: its shapes are not the federation's.
            Forbidden, Unauthenticated: the director knows the caller by another name, or not at all.
        """
        shard = describe(await asyncio.to_thread(self._shard.load), envoy=self._name)
        client_id = None if self._tls else self._name
        with workplace(self._directory) as directory:
            site = Site(self._name, self._shard, directory, self._review)
            async with Connection(self._addresses, tls=self._tls, client_id=client_id) as connection:
                client = DirectorClient(connection, self._name)
                heartbeats = Heartbeats(client, shard)
                await heartbeats.register()
                log.info("envoy %s is registered: %s", self._name, shard.description)
                await until_first(heartbeats.beat(), serve(client, heartbeats, site))

    async def _run_until_told_to_stop(self) -> None:
        told = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, told.set)

        async def wait() -> None:
            await told.wait()
            log.info("envoy %s stops", self._name)

        await until_first(self.run(), wait())


async def serve(client: DirectorClient, heartbeats: Heartbeats, site: Site) -> NoReturn:
    """Take part in one experiment after the other.

    Raises:
        As `Heartbeats.register`.
    """
    while True:
        try:
            engagement = await until_answered(client.wait_experiment)
            await serve_one(client, heartbeats, site, engagement)
        except EnvoyNotFound:
            await heartbeats.register()
        except StaleAttempt as error:
            log.warning("is another process running as %s? %s", site.envoy, error)
            await asyncio.sleep(AFTER_ERROR_SECONDS)
        except DirectorError as error:
            log.error("the director refused: %s", error)
            await asyncio.sleep(AFTER_ERROR_SECONDS)


async def serve_one(client: DirectorClient, heartbeats: Heartbeats, site: Site, engagement: Engagement) -> None:
    """Take part in an experiment until that is over, or the director wants the envoy elsewhere.

    Raises:
        StaleAttempt: the experiment was handed out again, to another process under this name.
    """
    with heartbeats.serving(engagement) as service:
        await until_first(take_part(client, engagement, site), over(service))


async def over(service: Service) -> None:
    """Wait until the director wants the envoy elsewhere.

    Raises:
        StaleAttempt: there is a later attempt at the same experiment.
    """
    await service.is_over.wait()
    mine, wanted = service.engagement, service.wanted
    if wanted is not None and wanted.experiment_id == mine.experiment_id:
        raise StaleAttempt(f"{mine.experiment_name} was handed out again: {wanted.attempt} instead of {mine.attempt}")
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
