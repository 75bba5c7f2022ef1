"""The wheel holds all that a director needs: it runs from a copy of it, in an empty folder."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.acceptance.processes import CHECKOUT, Machine


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(CHECKOUT)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    [path] = folder.glob("*.whl")
    return path


def test_migrations_generated_code_and_the_demo_are_in_it(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())

    assert names.issuperset(
        {
            "director/migrations/env.py",
            "director/migrations/versions/0001_the_first_schema.py",
            "director/migrations/versions/0002_identity_sessions_and_words.py",
            "director/v1/envoys_pb2.py",
            "director/v1/envoys_pb2_grpc.py",
            "director/demo/workspace/plan/plan.yaml",
        }
    )
    assert not [name for name in names if name.startswith("tests") or "__pycache__" in name]


@pytest.mark.system
def test_director_runs_from_an_installed_copy(wheel: Path, machine: Machine) -> None:
    copy, empty = machine.folder / "copy", machine.folder / "empty"
    empty.mkdir()
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(copy)]
    subprocess.run([*install, str(wheel)], check=True, capture_output=True, text=True)
    machine.environment["PYTHONPATH"] = str(copy)
    machine.folder, machine.warm = empty, False

    director = machine.serve()

    where = [sys.executable, "-c", "import director; print(director.__file__)"]
    found = subprocess.check_output(where, cwd=empty, env=machine.environment, text=True)
    assert Path(found.strip()).is_relative_to(copy)
    assert machine.ask("db", "current") == {"schema": "0002", "needed": "0002"}
    assert machine.say("envoys") == "no envoy has registered yet\n"
    assert director.stop() == 0
