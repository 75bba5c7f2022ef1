"""Processes that start warm: forked from one that has imported everything, which is most of what a short one does.

They are processes like any other: with an id, a folder, an environment and an exit status, and killed as such.
"""

import atexit
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from importlib import import_module
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import IO, Any

AT_IMPORT = {"GRPC_VERBOSITY": "NONE", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
"""What libraries look at when they are imported; a fork takes it along."""
os.environ.update(AT_IMPORT)
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "director.bootstrap",
        "director.cli.main",
        "director.cli.serve_command",
        "director.cli.envoy_command",
        "director.cli.experiment_commands",
        "director.cli.submit_command",
        "director.cli.federation_commands",
        "director.cli.report_command",
        "director.cli.db_commands",
        "director.envoy.agent",
        "director.services.maintenance",
        "sqlalchemy.dialects.postgresql.asyncpg",
        "sqlalchemy.dialects.sqlite.aiosqlite",
    ]
)


class WarmProcess:
    """A process with the face of `subprocess.Popen`, as far as anybody looks at it."""

    def __init__(
        self,
        program: str,
        *arguments: str,
        folder: Path,
        environment: Mapping[str, str],
        errors: Path,
        output: Path | None = None,
    ) -> None:
        """Start; what it prints goes to a file, or without one to a pipe."""
        self.stdout: IO[str] | None = None
        errors.touch()
        if output is not None:
            self._process = self._start(program, arguments, folder, dict(environment), errors, output)
        else:
            reader, writer = CONTEXT.Pipe(duplex=False)
            with reader, writer:
                self._process = self._start(program, arguments, folder, dict(environment), errors, writer)
                self.stdout = os.fdopen(os.dup(reader.fileno()))

    def _start(self, *arguments: Any) -> ForkServerProcess:
        process = CONTEXT.Process(target=begin, args=arguments)
        process.start()
        return process

    @property
    def pid(self) -> int:
        """Its id."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """Its exit status, once it has ended."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """Return its exit status, or None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(str(self._process), timeout or 0)
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """Send it a signal, if it still runs."""
        if self._process.exitcode is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it."""
        self.send_signal(signal.SIGKILL)


def begin(
    program: str,
    arguments: tuple[str, ...],
    folder: Path,
    environment: dict[str, str],
    errors: Path,
    output: Path | Connection,
) -> None:
    """Become the program, as `python -m program` would."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    with errors.open("ab") as file:
        os.dup2(file.fileno(), sys.stderr.fileno())
    if isinstance(output, Path):
        with output.open("wb") as file:
            os.dup2(file.fileno(), sys.stdout.fileno())
    else:
        os.dup2(output.fileno(), sys.stdout.fileno())
        output.close()
    sys.argv = [program, *arguments]
    sys.path[0] = str(folder)
    try:
        import_module(program).main()
    finally:
        atexit._run_exitfuncs()
