"""A reader of a page: does what it says, step by step, and compares what comes out with what is shown."""

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping
from unittest import mock

from director.cli import main as command_line
from director.demo.stage import READY
from tests.acceptance.processes import COMMAND_SECONDS, Machine, Running
from tests.docs.pages import Block, blocks

ADDRESS = "127.0.0.1:50051"
ILLUSTRATIONS = ""
"""Code without a language is not run."""


class Reader:
    """Saves files, runs commands, and compares what they print.

    Python and YAML are saved as the text before them says; other Python is run. A block of text behind commands is what
    they print; behind a process that goes on, it is what the process logs.

    Args:
        machine: Where it is done.
        sql: Runs SQL as the user that the page speaks to.
        instead: What is put in place of names that the page makes up.
    """

    def __init__(
        self, machine: Machine, *, sql: Callable[[str], None] | None = None, instead: Mapping[str, str] = {}
    ) -> None:
        self._machine = machine
        self._sql = sql
        self._instead = instead
        self._printed = ""
        self._running: Running | None = None

    def follow(self, page: str) -> None:
        """Do all that a page says."""
        for block in blocks(page):
            self._do(block, self._adapted(block.code))

    def _adapted(self, code: str) -> str:
        address = self._machine.environment.get("DIRECTOR_ADDRESS", ADDRESS)
        for name, meant in [*self._instead.items(), (ADDRESS, address)]:
            code = code.replace(name, meant.replace("PORT", address.rpartition(":")[2]))
        return code

    def _do(self, block: Block, code: str) -> None:
        saved_as = re.findall(r"[Ss]ave .*as `([^`]+)`", block.before)
        match block.language:
            case "python" | "yaml" if saved_as:
                self._save(saved_as[-1], code)
            case "python":
                self._printed = self._output([sys.executable, "-c", code])
            case "sh":
                self._run(code)
            case "sql" if self._sql is not None:
                self._sql(code)
            case "text":
                self._compare(code)
            case language:
                assert language == ILLUSTRATIONS, f"what is to be done with {language}?"

    def _save(self, name: str, code: str) -> None:
        path = self._machine.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(code)

    def _run(self, code: str) -> None:
        self._running, self._printed = None, ""
        for line in code.replace("\\\n", " ").splitlines():
            match shlex.split(line):
                case ["director", "serve", *options]:
                    self._machine.serve(*options)
                    self._printed += f"{READY}{self._machine.environment['DIRECTOR_ADDRESS']}\n"
                case ["director", "envoy", "--name", name, *options]:
                    self._running = self._machine.start(name, "envoy", "--name", name, *options)
                case ["director", *arguments]:
                    self._printed += self._command(arguments)
                case ["export", assignment]:
                    self._machine.environment |= dict([assignment.split("=", 1)])
                case [program, *arguments]:
                    found = sys.executable if program == "python" else program
                    self._printed += self._output([found, *arguments])

    def _command(self, arguments: list[str]) -> str:
        """Run a command of ours in this process, which is ten times as fast as in its own."""
        printed = io.StringIO()
        with (
            contextlib.chdir(self._machine.folder),
            mock.patch.dict(os.environ, self._machine.environment, clear=True),
            contextlib.redirect_stdout(printed),
        ):
            assert command_line.run(arguments) == 0, f"director {shlex.join(arguments)}"
        return printed.getvalue()

    def _output(self, command: list[str]) -> str:
        done = subprocess.run(
            command,
            cwd=self._machine.folder,
            env=self._machine.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )
        assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}{done.stderr}"
        return done.stdout

    def _compare(self, shown: str) -> None:
        if self._running is None:
            assert self._printed == shown
            return
        for line in shown.splitlines():
            self._running.wait_for(line)
