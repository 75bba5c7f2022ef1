"""What the command line's tests share: a fake director, and somebody who runs commands."""

from collections.abc import Callable, Iterator

import pytest

from director.cli.main import run
from tests.unit.client.fake_director import FakeDirector, an_experiment


@pytest.fixture
def director(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDirector]:
    """A director that knows one experiment, and that commands call by default."""
    with FakeDirector(GetExperiment=an_experiment()) as fake:
        monkeypatch.setenv("DIRECTOR_ADDRESS", fake.address)
        monkeypatch.setenv("DIRECTOR_CLIENT_ID", "ada")
        yield fake


@pytest.fixture
def say(director: FakeDirector, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command that succeeds, and returns what it prints."""

    def command(*arguments: str) -> str:
        status = run(list(arguments))
        printed = capsys.readouterr()
        assert (status, printed.err) == (0, "")
        return printed.out

    return command
