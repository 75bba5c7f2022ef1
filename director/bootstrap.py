"""Settings → director → server: the one place that builds a running process, and takes it down again."""

import asyncio
import contextlib
import logging
import signal
from collections.abc import Callable

from director.errors import InvalidArgument
from director.facade import Director
from director.settings import Settings
from director.wire.channels import TlsFiles
from director.wire.server import Server

log = logging.getLogger(__name__)

GRACE_SECONDS = 5.0


def tls_files(settings: Settings) -> TlsFiles | None:
    """Return the TLS files that the settings name; all three, or none.

    Raises:
        InvalidArgument: some are missing.
    """
    files = settings.root_certificate, settings.certificate, settings.private_key
    match files:
        case (None, None, None):
            return None
        case (None, _, _) | (_, None, _) | (_, _, None):
            raise InvalidArgument("mutual TLS needs all three: --root-certificate, --certificate and --private-key")
        case (root, certificate, key):
            return TlsFiles(root, certificate, key)


async def serve(settings: Settings, *, ready: Callable[[str], None]) -> None:
    """Run a director until SIGTERM or SIGINT; `ready` is told the address once calls are answered.

    Raises:
        DirectorError: it cannot start; the text says why.
    """
    tls = tls_files(settings)
    director = Director(tls=tls is not None, settings=settings)
    server = Server(director.process)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for each in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(each, stop.set)
    try:
        await director.open()
        port = await server.start(settings.listen_host, settings.listen_port, tls=tls, insecure=settings.insecure)
        running = asyncio.create_task(director.start_experiment_execution_loop())
        ready(f"{settings.listen_host}:{port}")
        await asyncio.wait([running, asyncio.ensure_future(stop.wait())], return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            running.result()
        log.info("stopping")
        await server.withdraw()
        await director.process.drain()
        await server.stop(GRACE_SECONDS)
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
    finally:
        await director.close()
