"""Settings → director → server: the one place that builds a running process, and takes it down again."""

import asyncio
import contextlib
import logging
import signal
from collections.abc import Callable

from director.services.process import Process
from director.settings import Settings
from director.store.engine.opening import open_database
from director.wire.channels import TlsFiles
from director.wire.server import Server

log = logging.getLogger(__name__)

GRACE_SECONDS = 5.0


async def serve(settings: Settings, *, ready: Callable[[str], None]) -> None:
    """Run a director until SIGTERM or SIGINT; `ready` is told the address once calls are answered.

    Raises:
        DirectorError: it cannot start; the text says why.
    """
    tls = TlsFiles.of(settings.root_certificate, settings.certificate, settings.private_key)
    settings.refuse_installing()
    process = Process(open_database(settings.database), settings)
    server = Server(process)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for each in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(each, stop.set)
    try:
        await process.open()
        port = await server.start(settings.listen_host, settings.listen_port, tls=tls, insecure=settings.insecure)
        running = asyncio.create_task(process.run())
        ready(f"{settings.listen_host}:{port}")
        await asyncio.wait([running, asyncio.ensure_future(stop.wait())], return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            running.result()
        log.info("stopping")
        await server.withdraw()
        await process.drain()
        await server.stop(GRACE_SECONDS)
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
    finally:
        await process.drain()
        await process.close()
