"""What the client's tests share: a fake director, and a federation that calls it."""

from collections.abc import Iterator

import pytest

from director.client import Federation
from tests.unit.client.fake_director import FakeDirector, an_experiment


@pytest.fixture
def director() -> Iterator[FakeDirector]:
    """A director that knows one experiment."""
    with FakeDirector(GetExperiment=an_experiment()) as fake:
        yield fake


@pytest.fixture
def federation(director: FakeDirector) -> Iterator[Federation]:
    """The federation of that director."""
    with Federation(director.address, client_id="ada", patience=5) as opened:
        yield opened
