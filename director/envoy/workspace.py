"""Unpack an archive into a directory; when it is refused, nothing is left behind."""

import shutil
from pathlib import Path
from zipfile import ZipFile, ZipInfo

from director.domain import archives
from director.errors import InvalidArchive

PIECE_BYTES = 1 << 20


def unpack(archive: Path, directory: Path) -> None:
    """Check an archive and unpack it into a directory that does not exist yet.

    Files get the permissions that new files have; the permissions in the archive are ignored.

    Raises:
        InvalidArchive: it is not a zip file, or not a safe one.
    """
    with archive.open("rb") as file, archives.open_checked(file) as opened:
        directory.mkdir(mode=0o700)
        try:
            for entry in opened.infolist():
                _unpack_entry(opened, entry, directory.joinpath(*entry.filename.split("/")))
        except BaseException:
            shutil.rmtree(directory, ignore_errors=True)
            raise


def _unpack_entry(archive: ZipFile, entry: ZipInfo, target: Path) -> None:
    if entry.is_dir():
        target.mkdir(parents=True, exist_ok=True)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    written = 0
    with target.open("xb") as sink, archives.unreadable_is_invalid(), archive.open(entry) as source:
        while piece := source.read(PIECE_BYTES):
            written += len(piece)
            if written > entry.file_size:
                break
            sink.write(piece)
    if written != entry.file_size:
        raise InvalidArchive(f"entry {entry.filename!r} of the archive is not as long as the archive says")
