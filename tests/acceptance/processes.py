"""A machine on which people start things: directors, envoys and commands, each the real process.

Whatever still runs at the end is killed, and the logs are printed, which pytest shows where a test failed.
"""

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from director.demo.stage import READY, first_line
from tests.acceptance.warm import WarmProcess

DIRECTOR = "director.cli.main"
CHECKOUT = Path(__file__).parents[2]
PATIENCE_SECONDS = 30.0
COMMAND_SECONDS = 90.0
STOP_SECONDS = 10.0


class Outcome(NamedTuple):
    """How a command ended."""

    status: int
    output: str
    errors: str


@dataclass
class Running:
    """A process that goes on until it is stopped; its standard error is its log."""

    process: WarmProcess | subprocess.Popen[str]
    log: Path

    def kill(self) -> None:
        """End it as a power cut would."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """Ask it to stop; return its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(STOP_SECONDS)

    def wait_for(self, words: str) -> None:
        """Wait until it has logged some words."""

        def logged() -> bool:
            assert self.process.poll() is None, f"it ended with status {self.process.returncode}: {self.lines}"
            return any(words in line for line in self.lines)

        eventually(logged, f"the log says {words!r}")

    @property
    def lines(self) -> list[str]:
        """What it has logged."""
        return self.log.read_text(errors="replace").splitlines()


class Machine:
    """Starts processes in a folder, and ends all of them.

    Args:
        folder: Where they are started; their logs are put there too.
        environment: Variables for each of them; DIRECTOR_* of whoever runs the tests is not passed on.
        warm: Whether they come with this checkout imported; else each is started by a new interpreter.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str] = {}, *, warm: bool = True) -> None:
        self.folder, self.warm = folder, warm
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("DIRECTOR_")}
        self.environment = inherited | {"PYTHONPATH": str(CHECKOUT)} | dict(environment)
        self._running: list[Running] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for each in reversed(self._running):
            each.kill()
        for path in sorted({each.log for each in self._running}):
            print(f"--- {path.name}", path.read_text(errors="replace"), sep="\n")

    def start(self, log: str, *arguments: str, piped: bool = False, program: str = DIRECTOR) -> Running:
        """Start `director`, or a program like it, with arguments, and go on."""
        path = self.folder / f"{log}.log"
        output = None if piped else Path(os.devnull)
        process = self._begin(program, *arguments, environment=self.environment, output=output, errors=path)
        self._running.append(Running(process, path))
        return self._running[-1]

    def serve(self, *options: str) -> Running:
        """Start a director, where the one before it listened; commands and envoys find it from now on."""
        address = self.environment.setdefault("DIRECTOR_ADDRESS", free_address())
        director = self.start("director", "serve", "--listen", address, *options, piped=True)
        line = first_line(director.process)
        assert line == f"{READY}{address}\n", f"it says {line!r} and logs {director.lines}"
        return director

    def run(self, *arguments: str, **environment: str) -> Outcome:
        """Run a command to its end."""
        with tempfile.TemporaryDirectory() as folder:
            output, errors = Path(folder, "output"), Path(folder, "errors")
            process = self._begin(
                DIRECTOR, *arguments, environment=self.environment | environment, output=output, errors=errors
            )
            try:
                status = process.wait(COMMAND_SECONDS)
            except subprocess.TimeoutExpired:
                process.terminate()  # not killed: what it started would go on
                process.wait()
                said = output.read_text() + errors.read_text()
                raise AssertionError(f"director {' '.join(arguments)} does not end: {said}") from None
            return Outcome(status, output.read_text(), errors.read_text())

    def _begin(
        self, program: str, *arguments: str, environment: Mapping[str, str], output: Path | None, errors: Path
    ) -> WarmProcess | subprocess.Popen[str]:
        if self.warm:
            return WarmProcess(
                program, *arguments, folder=self.folder, environment=environment, output=output, errors=errors
            )
        with errors.open("ab") as err, contextlib.ExitStack() as stack:
            return subprocess.Popen(
                [sys.executable, "-m", program, *arguments],
                cwd=self.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if output is None else stack.enter_context(output.open("wb")),
                stderr=err,
                text=True,
            )

    def say(self, *arguments: str, **environment: str) -> str:
        """Run a command that succeeds without a complaint; return what it prints."""
        status, output, errors = self.run(*arguments, **environment)
        assert (status, errors) == (0, ""), f"director {' '.join(arguments)}: status {status}, {errors}"
        return output

    def ask(self, *arguments: str, **environment: str) -> Any:
        """Run a command with --json; return what it answers."""
        return json.loads(self.say(*arguments, "--json", **environment))

    def refusal(self, *arguments: str, **environment: str) -> str:
        """Run a command that fails; return the one line that says why."""
        status, output, errors = self.run(*arguments, **environment)
        assert (status, output) == (1, ""), f"director {' '.join(arguments)}: status {status}, {output}{errors}"
        [line] = errors.splitlines()
        assert line.startswith("Error: ")
        return line.removeprefix("Error: ")


def free_address() -> str:
    """Return an address that is free, and stays so while a director is down: nobody is given such a port by chance."""
    for port in random.sample(range(20_000, 32_000), 100):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return f"127.0.0.1:{port}"
    raise AssertionError("no port is free")


def eventually(condition: Callable[[], Any], what: str, *, seconds: float = PATIENCE_SECONDS) -> Any:
    """Ask until the answer is true, and return it."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, f"in vain: {what}"
        time.sleep(0.02)
    return found
