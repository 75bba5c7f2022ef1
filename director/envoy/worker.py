"""The worker: a process of its own in which an experiment's code runs; `python -m director.envoy.worker`.

It reads commands from standard input and writes answers to what was standard output. User code finds standard input
empty, and what it prints goes to standard error, so that it cannot garble the answers. When standard input closes,
the envoy is gone: the worker and all that it started die at once, also in the middle of user code.
"""

import faulthandler
import os
import signal
import sys
import traceback
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import IO, Any, NoReturn, assert_never

from director.domain.experiment import Failure
from director.domain.tensors import Manifest
from director.domain.types import TaskKind
from director.envoy import protocol, results
from director.envoy.references import resolve
from director.envoy.shard_descriptor import ShardDescriptor, load
from director.errors import DirectorError, InvalidArgument


def main() -> NoReturn:
    """Serve commands, one after the other, until standard input closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    faulthandler.enable()
    commands, answers = take_over_streams()
    inbox: SimpleQueue[bytes] = SimpleQueue()
    Thread(target=receive, args=(commands, inbox), daemon=True).start()
    serve(inbox, answers)


def take_over_streams() -> tuple[IO[bytes], IO[bytes]]:
    """Keep standard input and output for the protocol; user code gets an empty input and writes to standard error."""
    commands, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(line_buffering=True)
    return commands, answers


def receive(commands: IO[bytes], inbox: "SimpleQueue[bytes]") -> None:
    """Queue commands as they come; when standard input closes, end the process and all that it started."""
    for line in commands:
        inbox.put(line)
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(0)


def serve(inbox: "SimpleQueue[bytes]", answers: IO[bytes]) -> NoReturn:
    """Answer each command; the process ends by `receive`."""
    shard: ShardDescriptor | None = None
    while True:
        command = protocol.decode(inbox.get())
        answer: protocol.Message
        match command:
            case protocol.LoadShard():
                shard, answer = load_shard(command)
            case protocol.RunTask():
                answer = run_task(command, shard)
            case protocol.ShardLoaded() | protocol.TaskDone() | Failure():
                raise TypeError(f"{command} is an answer, not a command")
            case _:
                assert_never(command)
        answers.write(protocol.encode(answer))
        answers.flush()


def load_shard(command: protocol.LoadShard) -> tuple[ShardDescriptor | None, protocol.ShardLoaded | Failure]:
    """Make the shard, then enter the workspace: in this order, so that an archive cannot replace the owner's code."""
    try:
        shard = load(command.reference, command.params)
    except DirectorError as error:
        return None, protocol.failure_of(str(error), error=error)
    os.chdir(command.workspace)
    sys.path.insert(0, command.workspace)
    return shard, protocol.ShardLoaded()


def run_task(command: protocol.RunTask, shard: ShardDescriptor | None) -> protocol.TaskDone | Failure:
    """Run one task; every error becomes a failure, with the traceback where user code raised."""
    try:
        function = function_of(command)
        manifest = manifest_in(command.manifest, os.stat(command.manifest).st_mtime_ns)
        model = results.read_payload(Path(command.model), manifest)
        returned = function(model, shard, command.round, dict(command.settings))
        return results.finish(TaskKind(command.kind), returned, manifest=manifest, update=Path(command.update))
    except DirectorError as error:
        return protocol.failure_of(f"in round {command.round}: {error}", task=command.name, error=error)
    except BaseException as error:  # SystemExit too: the process is ours, not the user's
        frames = error.__traceback__.tb_next if error.__traceback__ else None
        text = "".join(traceback.format_exception(type(error), error, frames))
        return protocol.failure_of(f"in round {command.round}:\n{text}", task=command.name, error=error)


@lru_cache(maxsize=1)
def manifest_in(path: str, _modified_ns: int) -> Manifest:
    """Read a manifest from a file. It is read once, since 100,000 tensors take more than a second."""
    return Manifest.decode(Path(path).read_bytes())


def function_of(command: protocol.RunTask) -> Callable[..., Any]:
    """Import a task's function from the workspace.

    Raises:
        InvalidArgument: there is no such function, or it cannot be called.
    """
    function = resolve(command.function)
    if not callable(function):
        raise InvalidArgument(f"{command.function!r} is not a function")
    return function  # type: ignore[no-any-return]


if __name__ == "__main__":
    main()
