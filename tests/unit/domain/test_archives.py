"""Archives are checked by their own directory, and what `zipfile` raises on broken ones never gets out."""

import io
import random
import stat
import struct
from zipfile import ZIP_BZIP2, ZIP_DEFLATED, ZIP_STORED, ZipFile, ZipInfo

import pytest

from director.domain import archives
from director.errors import InvalidArchive


def archive_of(*entries: tuple[str | ZipInfo, bytes], compression: int = ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with ZipFile(file, "w", compression) as archive:
        for name, data in entries:
            archive.writestr(name, data)
    return file.getvalue()


def check(data: bytes) -> None:
    with archives.open_checked(io.BytesIO(data)):
        pass


def read_plan(data: bytes) -> bytes:
    with archives.open_checked(io.BytesIO(data)) as archive:
        return archives.read_plan(archive)


def entry(name: str, **fields: int) -> ZipInfo:
    info = ZipInfo(name)
    info.external_attr = (stat.S_IFREG | 0o644) << 16
    info.header_offset = 0
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def test_ordinary_archive_is_accepted_and_its_plan_is_read():
    data = archive_of(("plan/plan.yaml", b"rounds: 3\n"), ("code/", b""), ("code/model.py", b"pass\n"))

    plan = read_plan(data)

    assert plan == b"rounds: 3\n"


def test_archive_with_something_in_front_and_a_comment_behind_is_accepted():
    file = io.BytesIO()
    with ZipFile(file, "w") as archive:
        archive.writestr("plan/plan.yaml", "rounds: 3\n")
        archive.comment = b"a comment"

    check(b"#!/bin/sh\n" + file.getvalue())


def test_archive_without_a_plan_is_refused():
    data = archive_of(("plan.yaml", b"rounds: 3\n"))

    with pytest.raises(InvalidArchive, match=r"no plan/plan\.yaml"):
        read_plan(data)


def test_huge_plan_is_refused():
    data = archive_of(("plan/plan.yaml", b"#" * (archives.MAX_PLAN_BYTES + 1)))

    with pytest.raises(InvalidArchive, match="at most"):
        read_plan(data)


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("/etc/passwd", "absolute"),
        ("//server/share", "absolute"),
        ("../outside", "leads out"),
        ("code/../../outside", "leads out"),
        ("code/..", "leads out"),
        ("..", "leads out"),
        ("../", "leads out"),
        ("C:/windows", "colon"),
        ("c:evil", "colon"),
        ("file:stream", "colon"),
        ("code\\evil", "backslash"),
        ("..\\evil", "backslash"),
        ("name\nline", "control"),
        ("./code", "empty or ends"),
        ("code//model.py", "empty or ends"),
        ("code/./model.py", "empty or ends"),
        ("code./model.py", "empty or ends"),
        ("code /model.py", "empty or ends"),
        ("", "empty or ends"),
        ("a" * 256, "too long"),
        ("ä" * 128, "too long"),
        ("a/" * 600 + "b", "too long"),
    ],
)
def test_unsafe_name_is_refused(name, complaint):
    with pytest.raises(InvalidArchive, match=complaint):
        archives.check_entries([entry(name)])


def test_name_with_a_nul_is_refused_although_zipfile_hides_it():
    with pytest.raises(InvalidArchive, match="control"):
        archives.check_entries([entry("model.py\0.txt")])


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFDIR])
def test_link_or_special_file_is_refused(kind):
    with pytest.raises(InvalidArchive, match="link or a special file"):
        archives.check_entries([entry("model.py", external_attr=(kind | 0o777) << 16)])


def test_link_that_calls_itself_a_directory_is_refused():
    with pytest.raises(InvalidArchive, match="link or a special file"):
        archives.check_entries([entry("code/", external_attr=(stat.S_IFLNK | 0o777) << 16)])


def test_encrypted_entry_is_refused():
    with pytest.raises(InvalidArchive, match="encrypted"):
        archives.check_entries([entry("model.py", flag_bits=1)])


def test_rare_compression_is_refused():
    with pytest.raises(InvalidArchive, match="deflate"):
        check(archive_of(("model.py", b"pass"), compression=ZIP_BZIP2))


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("model.py", "model.py"),
        ("model.py", "MODEL.py"),
        ("straße", "STRASSE"),
        ("caf\u00e9", "cafe\u0301"),
        ("code/", "Code"),
    ],
)
def test_names_that_are_one_on_some_file_system_are_refused(one, two):
    with pytest.raises(InvalidArchive, match="same name"):
        archives.check_places([entry(one), entry(two)])


@pytest.mark.parametrize("names", [("code", "code/model.py"), ("code/model.py", "CODE"), ("a/b/c/d", "a/b")])
def test_file_that_is_a_directory_elsewhere_is_refused(names):
    with pytest.raises(InvalidArchive, match="lies below it"):
        archives.check_places([entry(name) for name in names])


def test_too_many_entries_are_refused():
    entries = [entry(f"{number}", header_offset=number * 100) for number in range(archives.MAX_ENTRIES + 1)]

    with pytest.raises(InvalidArchive, match="10001 entries"):
        archives.check_entries(entries)


def test_archive_that_unpacks_to_more_than_a_gigabyte_is_refused():
    with pytest.raises(InvalidArchive, match="at most 1073741824"):
        archives.check_sizes([entry("data", file_size=2**30 + 1, compress_size=2**30)])


def test_zip_bomb_is_refused_by_its_ratio():
    bomb = archive_of(("zeros", bytes(archives.RATIO_MATTERS_FROM + 1)))

    with pytest.raises(InvalidArchive, match="zip bomb"):
        check(bomb)


def test_small_file_of_zeros_is_accepted():
    check(archive_of(("zeros", bytes(1 << 20))))


def test_entries_that_share_their_bytes_are_refused():
    entries = [entry("one", compress_size=1000, file_size=1000), entry("two", header_offset=500)]

    with pytest.raises(InvalidArchive, match="overlap"):
        archives.check_sizes(entries)


def test_zip64_archive_is_refused():
    data = archive_of(("model.py", b"pass"))
    end = data.rfind(archives.END_SIGNATURE)
    locator = archives.ZIP64_SIGNATURE + struct.pack("<LQL", 0, end, 1)

    with pytest.raises(InvalidArchive, match="ZIP64"):
        check(data[:end] + locator + data[end:])


@pytest.mark.parametrize("data", [b"", b"PK", b"not a zip file" * 100, bytes(100_000)])
def test_what_is_no_zip_file_is_refused(data):
    with pytest.raises(InvalidArchive, match="not a zip file"):
        check(data)


def test_truncated_archive_is_refused_wherever_it_is_cut():
    data = archive_of(("plan/plan.yaml", b"rounds: 3\n"), ("model.py", b"pass\n" * 100), compression=ZIP_STORED)

    for length in range(len(data)):
        with pytest.raises(InvalidArchive):
            check(data[:length])


def test_archive_with_its_beginning_cut_off_is_refused():
    data = archive_of(("plan/plan.yaml", b"rounds: 3\n"), ("model.py", b"pass\n" * 100))

    for start in range(1, len(data), 7):
        with pytest.raises(InvalidArchive):
            read_plan(data[start:])


def test_broken_archives_raise_nothing_but_invalid_archive():
    data = archive_of(("plan/plan.yaml", b"rounds: 3\n"), ("code/model.py", b"pass\n" * 50))
    chance = random.Random(7)

    for _ in range(3000):
        broken = bytearray(data)
        for _ in range(chance.choice([1, 1, 2, 8])):
            broken[chance.randrange(len(broken))] = chance.randrange(256)
        try:
            read_plan(bytes(broken))
        except InvalidArchive:
            continue
