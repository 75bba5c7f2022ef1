"""Workspaces become archives that are the same to the byte, and hold nothing that was not meant."""

import os
import zipfile
from pathlib import Path

import pytest

from director.client.packing import pack, ready
from director.errors import InvalidArchive, InvalidArgument


@pytest.fixture
def workspace(tmp_path):
    folder = tmp_path / "workspace"
    (folder / "plan").mkdir(parents=True)
    (folder / "plan" / "plan.yaml").write_text("rounds: 1\n")
    (folder / "work.py").write_text("def train(): ...\n")
    (folder / "data").mkdir()
    (folder / "data" / "labels.csv").write_text("a,b\n")
    return folder


def names_in(archive: Path) -> list[str]:
    with zipfile.ZipFile(archive) as opened:
        return opened.namelist()


def test_same_files_make_the_same_bytes_whenever_and_however_they_were_written(workspace, tmp_path):
    pack(workspace, tmp_path / "one.zip")
    (workspace / "work.py").unlink()
    (workspace / "work.py").write_text("def train(): ...\n")
    (workspace / "work.py").chmod(0o700)
    os.utime(workspace / "plan" / "plan.yaml", (1, 1))

    pack(workspace, tmp_path / "two.zip")

    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    assert names_in(tmp_path / "one.zip") == ["data/labels.csv", "plan/plan.yaml", "work.py"]


def test_another_byte_makes_another_archive(workspace, tmp_path):
    pack(workspace, tmp_path / "one.zip")
    (workspace / "work.py").write_text("def train(): pass\n")

    pack(workspace, tmp_path / "two.zip")

    assert (tmp_path / "one.zip").read_bytes() != (tmp_path / "two.zip").read_bytes()


def test_hidden_files_caches_links_and_special_files_stay_out(workspace, tmp_path):
    (tmp_path / "secret").write_text("not for the wire")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "big.bin").write_bytes(b"0")
    for name in (".git/config", ".env", "__pycache__/work.cpython-311.pyc", "work.pyc", "data/.cache/x"):
        (workspace / name).parent.mkdir(exist_ok=True)
        (workspace / name).write_text("left out")
    (workspace / "link.txt").symlink_to(tmp_path / "secret")
    (workspace / "linked").symlink_to(tmp_path / "elsewhere")
    os.mkfifo(workspace / "pipe")

    pack(workspace, tmp_path / "archive.zip")

    assert names_in(tmp_path / "archive.zip") == ["data/labels.csv", "plan/plan.yaml", "work.py"]


def test_workspace_without_a_plan_is_refused_before_anything_is_sent(workspace, tmp_path):
    (workspace / "plan" / "plan.yaml").unlink()

    with pytest.raises(InvalidArchive, match=r"no plan/plan\.yaml"):
        pack(workspace, tmp_path / "archive.zip")


def test_workspace_that_is_no_directory_is_refused(workspace, tmp_path):
    with pytest.raises(InvalidArchive, match="not a directory"):
        pack(workspace / "work.py", tmp_path / "archive.zip")


def test_archive_that_was_given_is_checked_and_left_where_it_is(workspace, tmp_path):
    given = tmp_path / "given.zip"
    pack(workspace, given)

    assert ready(None, given, tmp_path / "unused.zip") == given
    assert not (tmp_path / "unused.zip").exists()


def test_archive_that_is_no_zip_file_or_not_there_is_refused(tmp_path):
    (tmp_path / "notes.zip").write_text("not a zip file")

    with pytest.raises(InvalidArchive, match="not a zip file"):
        ready(None, tmp_path / "notes.zip", tmp_path / "unused.zip")
    with pytest.raises(InvalidArchive, match="cannot be read: No such file"):
        ready(None, tmp_path / "nowhere.zip", tmp_path / "unused.zip")


def test_workspace_and_archive_exclude_each_other(workspace, tmp_path):
    with pytest.raises(InvalidArgument, match="either a workspace or an archive"):
        ready(workspace, tmp_path / "given.zip", tmp_path / "unused.zip")
    with pytest.raises(InvalidArgument, match="either a workspace or an archive"):
        ready(None, None, tmp_path / "unused.zip")
