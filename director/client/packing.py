"""Workspaces as archives: the same files always make the same bytes, so that a submission can be repeated."""

import os
from collections.abc import Iterator
from pathlib import Path
from shutil import copyfileobj
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

from director.domain import archives
from director.errors import InvalidArchive, InvalidArgument

EPOCH = (1980, 1, 1, 0, 0, 0)
"""The instant of every entry; zip files know no earlier one."""

MODE = 0o100644 << 16
"""A plain file that anyone may read; whose it was, and what else they may, is nobody's business."""

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

    Left out are hidden files and directories, `__pycache__`, compiled Python files, and whatever is not a plain file:
    links are not followed.

    Raises:
        InvalidArchive: it is no directory, has no plan/plan.yaml, or breaks a limit of archives.
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
    """Refuse at once what the director would refuse once it has it all.

    Raises:
        InvalidArchive: the text says what is wrong.
    """
    try:
        with archive.open("rb") as file, archives.open_checked(file) as opened:
            archives.read_plan(opened)
    except OSError as error:
        raise InvalidArchive(f"the archive {str(archive)!r} cannot be read: {error.strerror or error}") from error


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
