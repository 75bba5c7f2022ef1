"""Archives are unpacked where they should be, or not at all."""

import random
import stat
import struct
import zlib
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile, ZipInfo

import pytest

from director.envoy.workspace import unpack
from director.errors import InvalidArchive


@pytest.fixture
def archive(tmp_path) -> Path:
    return tmp_path / "archive.zip"


@pytest.fixture
def target(tmp_path) -> Path:
    return tmp_path / "workspace"


def write(path: Path, *entries: tuple[str | ZipInfo, bytes], compression: int = ZIP_DEFLATED) -> bytes:
    with ZipFile(path, "w", compression) as archive:
        for name, data in entries:
            archive.writestr(name, data)
    return path.read_bytes()


def everything_below(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))


def test_archive_is_unpacked_with_its_directories(archive, target):
    write(archive, ("plan/plan.yaml", b"rounds: 1\n"), ("empty/", b""), ("a/b/c.bin", bytes(range(256)) * 9000))

    unpack(archive, target)

    assert everything_below(target) == ["a", "a/b", "a/b/c.bin", "empty", "plan", "plan/plan.yaml"]
    assert (target / "a/b/c.bin").read_bytes() == bytes(range(256)) * 9000


def test_directory_that_comes_after_its_files_is_fine(archive, target):
    write(archive, ("code/model.py", b"pass\n"), ("code/", b""))

    unpack(archive, target)

    assert (target / "code/model.py").read_bytes() == b"pass\n"


def test_permissions_in_the_archive_are_not_taken_over(archive, target):
    tool = ZipInfo("tool")
    tool.external_attr = (stat.S_IFREG | stat.S_ISUID | 0o777) << 16
    write(archive, (tool, b"#!/bin/sh\n"))

    unpack(archive, target)

    assert not (target / "tool").stat().st_mode & (stat.S_ISUID | 0o111)


def linked() -> ZipInfo:
    link = ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    return link


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("../outside", b"evil"),
        ("/tmp/outside", b"evil"),
        ("a/../../outside", b"evil"),
        ("C:\\outside", b"evil"),
        (linked(), b"/etc"),
        ("MODEL.py", b"twice"),
        ("model.py/below", b"a file as a directory"),
        ("bomb", bytes(32 << 20)),
    ],
)
def test_refused_archive_leaves_nothing_behind(archive, target, tmp_path, name, data):
    write(archive, ("model.py", b"pass\n"), (name, data))

    with pytest.raises(InvalidArchive):
        unpack(archive, target)

    assert everything_below(tmp_path) == ["archive.zip"]


def test_file_longer_than_its_header_says_is_refused(archive, target, tmp_path):
    data = write(archive, ("model.py", b"pass\n" * 1000), compression=ZIP_DEFLATED)
    lie = data.replace(struct.pack("<L", 5000), struct.pack("<L", 50))
    archive.write_bytes(lie)

    with pytest.raises(InvalidArchive):
        unpack(archive, target)

    assert everything_below(tmp_path) == ["archive.zip"]


def test_bomb_that_calls_itself_small_writes_no_more_than_it_says(archive, target, tmp_path):
    zeros = bytes(8 << 20)
    data = write(archive, ("zeros", zeros))
    beginning = zlib.crc32(zeros[:64])
    lie = data.replace(struct.pack("<L", 8 << 20), struct.pack("<L", 64))
    archive.write_bytes(lie.replace(struct.pack("<L", zlib.crc32(zeros)), struct.pack("<L", beginning)))

    unpack(archive, target)

    assert (target / "zeros").stat().st_size == 64


def test_file_shorter_than_its_header_says_is_refused(archive, target, tmp_path):
    data = write(archive, ("model.py", b"pass\n" * 1000))
    archive.write_bytes(data.replace(struct.pack("<L", 5000), struct.pack("<L", 6000)))

    with pytest.raises(InvalidArchive):
        unpack(archive, target)

    assert everything_below(tmp_path) == ["archive.zip"]


def test_damaged_file_is_refused(archive, target, tmp_path):
    data = write(archive, ("one.py", b"pass\n"), ("two.bin", b"precious" * 100), compression=ZIP_STORED)
    archive.write_bytes(data.replace(b"preciousprecious", b"preciousPrecious", 1))

    with pytest.raises(InvalidArchive, match="CRC"):
        unpack(archive, target)

    assert everything_below(tmp_path) == ["archive.zip"]


def test_truncated_archive_is_refused(archive, target, tmp_path):
    data = write(archive, ("model.py", random.Random(1).randbytes(10_000)))
    archive.write_bytes(data[:9000])

    with pytest.raises(InvalidArchive, match="cut off"):
        unpack(archive, target)

    assert everything_below(tmp_path) == ["archive.zip"]


def test_existing_directory_is_never_written_into(archive, target):
    write(archive, ("model.py", b"pass\n"))
    target.mkdir()
    (target / "precious").touch()

    with pytest.raises(FileExistsError):
        unpack(archive, target)

    assert everything_below(target) == ["precious"]


def test_broken_archives_are_unpacked_or_refused_but_never_half_way(archive, target, tmp_path):
    data = write(archive, ("plan/plan.yaml", b"rounds: 3\n"), ("code/model.py", b"pass\n" * 50))
    chance = random.Random(11)

    for _ in range(500):
        broken = bytearray(data)
        broken[chance.randrange(len(broken))] ^= 1 << chance.randrange(8)
        archive.write_bytes(broken)
        try:
            unpack(archive, target)
        except InvalidArchive:
            assert not target.exists()
        else:
            unpacked = tmp_path / "unpacked"
            target.rename(unpacked)
            for path in sorted(unpacked.rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() else path.unlink()
            unpacked.rmdir()
