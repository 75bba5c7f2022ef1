"""The tutorial works as it stands."""

from pathlib import Path

from tests.acceptance.processes import Machine
from tests.docs.pages import page
from tests.docs.reader import Reader


def test_tutorial_works_as_it_stands(tmp_path: Path) -> None:
    with Machine(tmp_path) as machine:
        Reader(machine).follow(page("tutorial/first-federation.md"))
