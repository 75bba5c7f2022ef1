from datetime import UTC, datetime

import pytest

from director.domain.experiment import BRIEF, Experiment, Failure
from director.domain.types import CollaboratorState, ExperimentState


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        (Failure("out of memory"), "out of memory"),
        (Failure("out of memory", error_type="RuntimeError"), "RuntimeError: out of memory"),
        (Failure("out of memory", "train", "RuntimeError"), "task 'train' failed: RuntimeError: out of memory"),
        (Failure("", "train", "KeyError"), "task 'train' failed: KeyError: no reason given"),
        (Failure(""), "no reason given"),
    ],
)
def test_failure_is_said_in_one_text(failure: Failure, said: str):
    assert str(failure) == failure.brief == said


def test_brief_text_of_a_failure_has_the_end_of_its_message():
    fits = Failure("x" * BRIEF, "train", "KeyError")
    long = Failure("Traceback" + "x" * BRIEF + "KeyError: 'w'", "train", "KeyError")

    assert fits.brief == str(fits)
    assert long.brief.startswith("task 'train' failed: KeyError: …xxx")
    assert long.brief.endswith("xxxKeyError: 'w'")
    assert len(long.brief) < BRIEF + 50


def test_experiment_knows_how_many_collaborators_it_has():
    counts = {CollaboratorState.DONE: 3, CollaboratorState.FAILED: 1}

    experiment = Experiment(
        uid="a" * 32,
        name="digits",
        owner="ada",
        state=ExperimentState.FINISHED,
        round=1,
        rounds_total=1,
        last_model=1,
        priority=0,
        submitted_at=datetime(2030, 1, 1, tzinfo=UTC),
        collaborators=counts,
    )

    assert experiment.collaborators_count == 4
