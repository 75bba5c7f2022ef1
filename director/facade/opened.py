"""The life of a director in process: opened at its first use, and closed once."""

import asyncio
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from director.facade.dicts import as_shape
from director.services.process import Process
from director.services.reviewing import ReviewCallback
from director.settings import Settings, load_settings
from director.store.engine.opening import open_database


class Opened:
    """Holds the process of a director. Use it as an asynchronous context manager."""

    def __init__(
        self,
        *,
        tls: bool = True,
        root_certificate: Path | str | None = None,
        private_key: Path | str | None = None,
        certificate: Path | str | None = None,
        sample_shape: Sequence[int | str] | None = None,
        target_shape: Sequence[int | str] | None = None,
        review_plan_callback: ReviewCallback | None = None,
        envoy_health_check_period: int = 60,
        install_requirements: bool = False,
        database: str | None = None,
        settings: Settings | None = None,
    ) -> None:
        """Prepare a director; nothing is opened before its first use.

        Args:
            tls: whether a server of this director speaks TLS and asks clients for certificates.
            root_certificate: CA certificates that clients' are checked against, as a PEM file.
            private_key: the director's private key, as a PEM file.
            certificate: the director's certificate chain, as a PEM file.
            sample_shape: the shape of one sample that every shard must have; any if None.
            target_shape: the shape of one target that every shard must have; any if None.
            review_plan_callback: asked with an experiment's name and the path of its plan, before it may run.
            envoy_health_check_period: seconds between an envoy's heartbeats.
            install_requirements: refused when true: the director runs no code of others.
            database: a database URL, by default `sqlite:///director.db`.
            settings: everything at once, in place of the other arguments.

        Raises:
            InvalidArgument: a wrong setting; the text names it.
        """
        self.tls = tls
        self.settings = settings or load_settings(
            database=database,
            root_certificate=root_certificate,
            private_key=private_key,
            certificate=certificate,
            sample_shape=as_shape(sample_shape),
            target_shape=as_shape(target_shape),
            envoy_health_check_period=envoy_health_check_period,
            install_requirements=install_requirements,
        )
        self.settings.refuse_installing()
        self.process = Process(open_database(self.settings.database), self.settings, review=review_plan_callback)
        self._opening: asyncio.Task[None] | None = None
        self._files: tempfile.TemporaryDirectory[str] | None = None

    async def __aenter__(self) -> Self:
        """Open the database and enter the federation."""
        try:
            await self.open()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the federation."""
        await self.close()

    async def open(self) -> None:
        """Open the database and enter the federation. Calls that come meanwhile wait for the first one.

        Raises:
            SchemaOutdated, PreconditionFailed, Unavailable: the text says what to do.
        """
        if self._opening is None or (self._opening.done() and self._opening.exception() is not None):
            self._opening = asyncio.ensure_future(self.process.open())
        await asyncio.shield(self._opening)

    async def close(self) -> None:
        """Let the experiments go, leave the federation, and delete the files that were handed out."""
        await self.process.drain()
        await self.process.close()
        if self._files is not None:
            self._files.cleanup()

    def new_directory(self) -> Path:
        """Return a new directory, which is deleted when this director is closed."""
        if self._files is None:
            self._files = tempfile.TemporaryDirectory(prefix="director-")
        return Path(tempfile.mkdtemp(dir=self._files.name))
