"""The envoy's side of a worker: it starts the process, sends it commands, and kills it with all that it started."""

import asyncio
import logging
import os
import signal
import sys
from asyncio.subprocess import PIPE
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from director.concurrency import uninterrupted
from director.domain.experiment import Failure
from director.envoy import protocol
from director.envoy.shard_descriptor import ShardSpec
from director.errors import DirectorError

MAX_LOG_LINE_BYTES = 8 << 10
LAST_WORDS_SECONDS = 1.0

log = logging.getLogger("director.envoy.worker")


class WorkerFailed(DirectorError):
    """A task failed or its worker died; the failure is for the owner of the experiment."""

    def __init__(self, failure: Failure) -> None:
        """Carry a failure; its text is the error's."""
        super().__init__(str(failure))
        self.failure = failure


class Worker:
    """A worker process for one experiment; leaving its `async with` kills it.

    Args:
        workspace: The unpacked archive.
        shard: The shard that the tasks are given.
    """

    def __init__(self, workspace: Path, shard: ShardSpec) -> None:
        """Keep what the worker needs; nothing is started yet."""
        self._workspace = workspace
        self._shard = shard
        self._pipes = _Pipes()
        self._transport: asyncio.SubprocessTransport | None = None

    async def __aenter__(self) -> Self:
        """Start the process, and wait until it has made the shard.

        Raises:
            WorkerFailed: it cannot make the shard, or it died.
        """
        self._transport, _ = await asyncio.get_running_loop().subprocess_exec(
            lambda: self._pipes,
            *(sys.executable, "-P", "-m", "director.envoy.worker"),
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(_search_path())},
            start_new_session=True,
        )
        command = protocol.LoadShard(self._shard.reference, self._shard.params, str(self._workspace.absolute()))
        try:
            await self._ask(command)
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Kill the process and all that it started."""
        await self.stop()

    async def run(self, task: protocol.RunTask) -> protocol.TaskDone:
        """Run one task to its end. A worker whose `run` was cancelled cannot be used again.

        Raises:
            WorkerFailed: the task failed, or the process died; the failure has the traceback or the exit status.
        """
        answer = await self._ask(task)
        assert isinstance(answer, protocol.TaskDone)
        return answer

    async def stop(self) -> None:
        """Kill the process and all that it started; harmless when they have ended."""
        transport, self._transport = self._transport, None
        if transport is not None:
            await uninterrupted(self._stop(transport))

    async def _stop(self, transport: asyncio.SubprocessTransport) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(transport.get_pid(), signal.SIGKILL)
        await self._pipes.exited.wait()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._pipes.logged.wait(), LAST_WORDS_SECONDS)
        transport.close()

    async def _ask(self, command: protocol.Command) -> protocol.Message:
        assert self._transport is not None
        commands = self._transport.get_pipe_transport(0)
        assert isinstance(commands, asyncio.WriteTransport)
        commands.write(protocol.encode(command))
        line = await self._pipes.answers.get()
        if line is None:
            self._pipes.answers.put_nowait(None)  # so that the next question to a dead worker is answered too
            task = command.name if isinstance(command, protocol.RunTask) else ""
            how = _exit_text(self._transport.get_returncode())
            raise WorkerFailed(protocol.failure_of(f"the worker ended by itself, {how}", task=task))
        answer = protocol.decode(line)
        if isinstance(answer, Failure):
            raise WorkerFailed(answer)
        return answer


class _Pipes(asyncio.SubprocessProtocol):
    """What comes from a worker: answers as lines (None when it has died), and what it prints, which goes to the log.

    The end of the process counts, not the end of its pipes: a process that user code started may hold them open.
    """

    def __init__(self) -> None:
        self.answers: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.exited = asyncio.Event()
        self.logged = asyncio.Event()
        self._answer = b""
        self._print = b""

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if fd == 1:
            *lines, self._answer = (self._answer + data).split(b"\n")
            for line in lines:
                self.answers.put_nowait(line)
            return
        *lines, self._print = (self._print + data).replace(b"\r", b"\n").split(b"\n")
        if len(self._print) > MAX_LOG_LINE_BYTES:
            lines.append(self._print)
            self._print = b""
        self._log(*lines)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        if fd == 2:
            self._log(self._print)
            self.logged.set()

    def process_exited(self) -> None:
        self.exited.set()
        self.answers.put_nowait(None)

    def _log(self, *lines: bytes) -> None:
        for line in filter(None, lines):
            log.info("%s", line.decode(errors="replace"))


def _search_path() -> list[str]:
    """Return the envoy's own search path, so that the worker finds what it finds; "" is the current directory."""
    return [os.path.abspath(entry) for entry in sys.path]


def _exit_text(status: int | None) -> str:
    if status is None or status >= 0:
        return f"with exit status {status}"
    name = signal.Signals(-status).name if -status in signal.valid_signals() else f"signal {-status}"
    hint = "; the machine may have run out of memory" if -status == signal.SIGKILL else ""
    return f"killed by {name}{hint}"
