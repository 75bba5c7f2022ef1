"""Workspaces as archives: the same files always make the same bytes, so that a submission can be repeated."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from shutil import copyfileobj
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

from director.domain import archives
from director.domain.content import Content
from director.errors import InvalidArchive, InvalidArgument

EPOCH = (1980, 1, 1, 0, 0, 0)
"""The instant of every entry; zip files know no earlier one."""

MODE = 0o100644 << 16
"""A plain file that anyone may read; the owner and the other rights of the file stay out."""

UNIX = 3


def ready(workspace: Path | None, archive: Path | None, target: Path) -> Path:
    """Return the archive to send: the one given, or one made at `target` of the workspace.

    Raises:
        InvalidArgument: both are given, or neither.
        InvalidArchive: the director would refuse it.
    """
    if archive is not None and workspace is None:
        check(archive)
        return archive
    if workspace is not None and archive is None:
        pack(workspace, target)
        return target
    raise InvalidArgument("submit either a workspace or an archive")


def pack(workspace: Path, target: Path) -> None:
    """Zip a workspace, checked as the director will check it.

    Hidden files and directories, `__pycache__`, compiled Python files and everything that is not a plain file are left
    out. Links are not followed.

    Raises:
        InvalidArchive: it is not a directory, has no plan/plan.yaml, or breaks a limit of archives.
    """
    if not workspace.is_dir():
        raise InvalidArchive(f"the workspace {str(workspace)!r} is not a directory")
    with ZipFile(target, "w", ZIP_DEFLATED) as archive:
        for name, path in sorted(files_of(workspace)):
            entry = ZipInfo(name, EPOCH)
            entry.compress_type = ZIP_DEFLATED
            entry.create_system = UNIX
            entry.external_attr = MODE
            entry.file_size = path.stat().st_size  # decides between the two forms that an entry may have
            with path.open("rb") as source, archive.open(entry, "w") as sink:
                copyfileobj(source, sink, 1 << 20)
    check(target)


def check(archive: Path) -> None:
    """Refuse at once what the director would refuse after the whole upload.

    Raises:
        InvalidArchive: the text says what is wrong.
    """
    try:
        with archive.open("rb") as file, archives.open_checked(file) as opened:
            archives.read_plan(opened)
    except OSError as error:
        raise InvalidArchive(f"the archive {str(archive)!r} cannot be read: {error.strerror or error}") from error


def content_of(archive: Path) -> Content:
    """Return the length and the digest of an archive."""
    with archive.open("rb") as file:
        return Content(archive.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())


def files_of(workspace: Path) -> Iterator[tuple[str, Path]]:
    """Yield (name in the archive, path) of each file that belongs to a workspace, in no order."""
    for folder, below, names in os.walk(workspace):
        below[:] = [each for each in below if not is_left_out(each)]
        for name in names:
            path = Path(folder, name)
            if not is_left_out(name) and path.is_file() and not path.is_symlink():
                yield path.relative_to(workspace).as_posix(), path


def is_left_out(name: str) -> bool:
    """Whether a file or directory of this name stays out: hidden, or Python's own leftovers."""
    return name.startswith(".") or name == "__pycache__" or name.endswith((".pyc", ".pyo"))
