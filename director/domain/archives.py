"""What a workspace archive may be: a zip file whose directory is checked before anything is unpacked.

An archive comes from a stranger, and its headers may lie. So nothing here is read without a limit, and the envoy that
unpacks it checks again. Functions take a seekable file or its entries; they open no paths.
"""

import struct
import unicodedata
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import SEEK_END
from itertools import pairwise
from stat import S_IFDIR, S_IFMT, S_IFREG
from typing import IO
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile, ZipInfo

from director.errors import InvalidArchive

PLAN = "plan/plan.yaml"
MAX_PLAN_BYTES = 1 << 20
MAX_ENTRIES = 10_000
MAX_UNPACKED_BYTES = 1 << 30
MAX_RATIO = 100
"""An archive larger than RATIO_MATTERS_FROM bytes when unpacked unpacks to at most so many times its size."""
RATIO_MATTERS_FROM = 16 << 20
MAX_PATH = 1024
MAX_PART_BYTES = 255
MAX_DIRECTORY_BYTES = 4 << 20

END = struct.Struct("<4s4H2LH")
END_SIGNATURE = b"PK\5\6"
ZIP64_SIGNATURE = b"PK\6\7"
ZIP64_BYTES = 20
TAIL_BYTES = ZIP64_BYTES + END.size + 0xFFFF
LOCAL_HEADER_BYTES = 30
ENCRYPTED = 0x1


@contextmanager
def unreadable_is_invalid() -> Iterator[None]:
    """Turn what `zipfile` raises on broken archives into InvalidArchive."""
    try:
        yield
    except (BadZipFile, zlib.error, struct.error, EOFError, ValueError, RuntimeError, OverflowError) as error:
        raise InvalidArchive(f"the archive is not a readable zip file: {error}") from error


def open_checked(file: IO[bytes]) -> ZipFile:
    """Open an archive and check all its entries; closing the result leaves the file open.

    Raises:
        InvalidArchive: the sentence says what is wrong.
    """
    size = file.seek(0, SEEK_END)
    file.seek(max(0, size - TAIL_BYTES))
    check_end(file.read(TAIL_BYTES), size)
    with unreadable_is_invalid():
        archive = ZipFile(file)
    check_entries(archive.infolist())
    return archive


def read_plan(archive: ZipFile) -> bytes:
    """Return the text of the plan in a checked archive.

    Raises:
        InvalidArchive: the plan is missing, too large or damaged.
    """
    try:
        entry = archive.getinfo(PLAN)
    except KeyError:
        raise InvalidArchive(f"the archive has no {PLAN}") from None
    if entry.file_size > MAX_PLAN_BYTES:
        raise InvalidArchive(f"{PLAN} has {entry.file_size} bytes; at most {MAX_PLAN_BYTES} are allowed")
    with unreadable_is_invalid(), archive.open(entry) as plan:
        text = plan.read(MAX_PLAN_BYTES + 1)
    if len(text) != entry.file_size:
        raise InvalidArchive(f"{PLAN} is not as long as the archive says")
    return text


def check_end(tail: bytes, size: int) -> None:
    """Check the end of a zip file, which tells how much of it a reader would hold in memory.

    Units: tail is the file's last TAIL_BYTES bytes, or all of it; size counts the bytes of the file.

    Raises:
        InvalidArchive: it is not a zip file, was cut off, is a ZIP64 or one of several parts, or has too many entries.
    """
    at = len(tail) - END.size
    if at < 0 or tail[at : at + 4] != END_SIGNATURE or tail[-2:] != b"\0\0":
        at = tail.rfind(END_SIGNATURE, ZIP64_BYTES if len(tail) == TAIL_BYTES else 0)
    if at < 0 or len(tail) < at + END.size:
        raise InvalidArchive("the archive is not a zip file, or was cut off")
    _, disk, first_disk, here, entries, length, offset, _ = END.unpack_from(tail, at)
    if tail[max(0, at - ZIP64_BYTES) : at].startswith(ZIP64_SIGNATURE):
        raise InvalidArchive("the archive is in the ZIP64 format, which is for larger ones than are allowed")
    if disk or first_disk or here != entries:
        raise InvalidArchive("the archive is one part of several; send it as one file")
    if entries > MAX_ENTRIES or length > MAX_DIRECTORY_BYTES:
        raise InvalidArchive(f"the archive has {entries} entries; at most {MAX_ENTRIES} are allowed")
    if offset + length > size - len(tail) + at:
        raise InvalidArchive("the archive is not a zip file, or was cut off")


def check_entries(entries: Sequence[ZipInfo]) -> None:
    """Check that an archive can be unpacked safely anywhere: each entry by itself, then all together.

    Raises:
        InvalidArchive: the sentence names the entry and what is wrong with it.
    """
    if len(entries) > MAX_ENTRIES:
        raise InvalidArchive(f"the archive has {len(entries)} entries; at most {MAX_ENTRIES} are allowed")
    for entry in entries:
        check_name(entry)
        check_kind(entry)
    check_sizes(entries)
    check_places(entries)


def check_name(entry: ZipInfo) -> None:
    """Refuse a name that leads out of the directory on any system, or that means different things on two.

    Raises:
        InvalidArchive: absolute, with `..`, a drive letter, backslash, control character or empty part, or too long.
    """
    name = entry.orig_filename
    parts = name.removesuffix("/").split("/")
    if name.startswith("/"):
        raise InvalidArchive(f"entry {name!r} of the archive has an absolute path")
    if ".." in parts:
        raise InvalidArchive(f"entry {name!r} of the archive leads out of its directory")
    if "\\" in name or ":" in name or any(unicodedata.category(character) in ("Cc", "Cs") for character in name):
        raise InvalidArchive(f"entry {name!r} of the archive has a backslash, colon or control character in its name")
    if any(part in ("", ".") or part.endswith((".", " ")) for part in parts):
        raise InvalidArchive(f"entry {name!r} of the archive has a part that is empty or ends in a dot or space")
    if len(name) > MAX_PATH or any(len(part.encode()) > MAX_PART_BYTES for part in parts):
        raise InvalidArchive(f"entry '{name[:80]}…' of the archive has too long a name")


def check_kind(entry: ZipInfo) -> None:
    """Refuse an entry that is not a plain file or directory, or that needs a password or a rare method to be read.

    Raises:
        InvalidArchive: a link, a device, encrypted, or compressed otherwise than by deflate.
    """
    name = entry.filename
    if S_IFMT(entry.external_attr >> 16) not in (0, S_IFDIR if entry.is_dir() else S_IFREG):
        raise InvalidArchive(f"entry {name!r} of the archive is a link or a special file")
    if entry.flag_bits & ENCRYPTED:
        raise InvalidArchive(f"entry {name!r} of the archive is encrypted")
    if entry.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
        raise InvalidArchive(f"entry {name!r} of the archive is compressed by another method than deflate")
    if entry.is_dir() and entry.file_size:
        raise InvalidArchive(f"entry {name!r} of the archive is a directory with bytes in it")


def check_sizes(entries: Sequence[ZipInfo]) -> None:
    """Refuse an archive that unpacks to too much.

    Raises:
        InvalidArchive: more than 1 GiB, far more than its own size, or entries that share their bytes.
    """
    unpacked = sum(entry.file_size for entry in entries)
    if unpacked > MAX_UNPACKED_BYTES:
        raise InvalidArchive(f"the archive unpacks to {unpacked} bytes; at most {MAX_UNPACKED_BYTES} are allowed")
    packed = sum(entry.compress_size for entry in entries)
    if unpacked > RATIO_MATTERS_FROM and unpacked > MAX_RATIO * packed:
        raise InvalidArchive(f"the archive unpacks to more than {MAX_RATIO} times its size, as a zip bomb does")
    for one, two in pairwise(sorted(entries, key=lambda entry: entry.header_offset)):
        if one.header_offset + LOCAL_HEADER_BYTES + one.compress_size > two.header_offset:
            raise InvalidArchive(f"entries {one.filename!r} and {two.filename!r} of the archive overlap")


def check_places(entries: Sequence[ZipInfo]) -> None:
    """Refuse two entries with the same name on a file system that ignores case, and a file that is a directory too.

    Raises:
        InvalidArchive: the sentence names both.
    """
    places: dict[str, str] = {}
    for entry in entries:
        place = folded(entry.filename.removesuffix("/"))
        if place in places:
            raise InvalidArchive(f"entries {places[place]!r} and {entry.filename!r} of the archive have the same name")
        places[place] = entry.filename
    for place, name in places.items():
        above = place
        while "/" in above:
            above = above.rpartition("/")[0]
            if not places.get(above, "/").endswith("/"):
                raise InvalidArchive(f"entry {places[above]!r} of the archive is a file, yet {name!r} lies below it")


def folded(path: str) -> str:
    """Return a path as it is compared by file systems that ignore case and the encoding of accents."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())
