"""The demo's processes.

One director and its envoys, each as a user would start it, with their logs beside the database.
"""

import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from director.errors import Unavailable

READY = "director ready on "
START_SECONDS = 30.0
STOP_SECONDS = 15.0


class Stage:
    """Starts processes, and takes all of them down at the end."""

    def __init__(self, folder: Path, *, database: str) -> None:
        """Use a folder for logs and workspaces."""
        self._folder = folder
        self._database = database
        self._logs = folder / "logs"
        self._logs.mkdir(parents=True, exist_ok=True)
        self._director: subprocess.Popen[str] | None = None
        self._envoys: list[subprocess.Popen[str]] = []
        self.address = "127.0.0.1:0"

    def __enter__(self) -> Self:
        """Return the stage."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop everything, the envoys first."""
        for process in self._envoys:
            process.send_signal(signal.SIGTERM)
        for process in self._envoys:
            finish(process)
        if self._director is not None:
            self._director.send_signal(signal.SIGTERM)
            finish(self._director)

    def start_director(self) -> None:
        """Start the director, on the port it had before if it had one, and wait until it answers.

        Raises:
            Unavailable: it did not start; the text says where its log is.
        """
        command = ["serve", "--database", self._database, "--listen", self.address]
        self._director = self._start("director", command, stdout=subprocess.PIPE)
        line = first_line(self._director)
        if not line.startswith(READY):
            raise Unavailable(f"the director did not start; {self.log('director')}")
        self.address = line.removeprefix(READY).strip()

    def kill_director(self) -> None:
        """Kill the director as a power cut would: no goodbye, nothing flushed that was not."""
        assert self._director is not None, "it was started before"
        self._director.kill()
        self._director.wait()

    def start_envoy(self, name: str, arguments: Sequence[str]) -> None:
        """Start an envoy."""
        workspaces = self._folder / "workspaces" / name
        workspaces.mkdir(parents=True, exist_ok=True)
        options = ["--name", name, "--director", self.address, "--directory", str(workspaces), *arguments]
        self._envoys.append(self._start(name, ["envoy", *options], stdout=subprocess.DEVNULL))

    def _start(self, name: str, command: Sequence[str], *, stdout: int) -> subprocess.Popen[str]:
        with (self._logs / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "director.cli.main", *command],
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=log,
                text=True,
                # The threads of three envoys on one machine would only be in each other's way.
                env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
                start_new_session=True,
            )

    def check(self) -> None:
        """Notice a process that ended by itself.

        Raises:
            Unavailable: the text says where its log is.
        """
        for number, process in enumerate(self._envoys):
            if process.poll() is not None:
                name = f"hospital-{number + 1}"
                raise Unavailable(f"envoy {name} ended with status {process.returncode}; {self.log(name)}")
        if self._director is not None and self._director.poll() is not None:
            raise Unavailable(f"the director ended with status {self._director.returncode}; {self.log('director')}")

    def log(self, name: str) -> str:
        """Say where a process's log is, and how it ends."""
        path = self._logs / f"{name}.log"
        lines = path.read_text(errors="replace").splitlines()
        return f"its log is {path} and ends with: {lines[-1] if lines else 'nothing'}"


def first_line(process: subprocess.Popen[str]) -> str:
    """Return the first line that a process prints, or nothing if it does not in time."""
    lines: queue.Queue[str] = queue.Queue()

    def read(stream: IO[str]) -> None:
        with stream:
            lines.put(stream.readline())
            for _line in stream:
                pass

    assert process.stdout is not None, "its output is a pipe"
    threading.Thread(target=read, args=(process.stdout,), daemon=True).start()
    try:
        return lines.get(timeout=START_SECONDS)
    except queue.Empty:
        return ""


def finish(process: subprocess.Popen[str]) -> None:
    """Wait for a process that was asked to stop; kill it if it does not."""
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
