import math
from random import Random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from director.domain import plan
from director.domain.scoring import Measurement, better, score, weighted_metrics

finite = st.floats(allow_nan=False, allow_infinity=False)
measurements = st.lists(
    st.builds(
        Measurement,
        envoy=st.text("abcdef", min_size=1, max_size=3),
        task=st.sampled_from(["train", "validate"]),
        samples=st.integers(1, 1_000_000),
        metrics=st.dictionaries(st.sampled_from(["accuracy", "loss"]), finite),
    ),
    max_size=8,
    unique_by=lambda each: (each.envoy, each.task),
)


def a_plan(**best):
    tasks = [
        {"name": "train", "kind": "train", "function": "m:train"},
        {"name": "validate", "kind": "validate", "function": "m:validate"},
    ]
    return plan.parse({"rounds": 1, "tasks": tasks, "best": best or None})


def test_metrics_are_averaged_by_samples_over_those_who_report_them():
    averaged = weighted_metrics(
        [
            Measurement("a", "validate", 1, {"accuracy": 1.0, "loss": 5.0}),
            Measurement("b", "validate", 3, {"accuracy": 0.0}),
            Measurement("b", "train", 3, {"loss": 2.0}),
        ]
    )

    assert averaged == {
        ("train", "loss"): 2.0,
        ("validate", "accuracy"): 0.25,
        ("validate", "loss"): 5.0,
    }


def test_nan_spoils_its_own_metric_alone():
    averaged = weighted_metrics(
        [
            Measurement("a", "validate", 1, {"accuracy": 0.5, "loss": math.nan}),
            Measurement("b", "validate", 1, {"accuracy": 0.5, "loss": 1.0}),
        ]
    )

    assert averaged["validate", "accuracy"] == 0.5
    assert math.isnan(averaged["validate", "loss"])


@pytest.mark.parametrize("values", [(math.inf, -math.inf), (math.inf, 1.0), (1e308, 1e308)])
def test_metrics_without_bounds_are_averaged_without_a_warning(values):
    averaged = weighted_metrics(
        [Measurement(envoy, "validate", 7, {"loss": value}) for envoy, value in zip("ab", values, strict=True)]
    )

    assert averaged["validate", "loss"] == pytest.approx(sum(value / 2 for value in values), nan_ok=True)


@given(measurements, st.randoms())
@example(
    [Measurement(envoy, "validate", 1, {"loss": loss}) for envoy, loss in [("a", 1.0), ("b", 1e16), ("c", -1e16)]],
    Random(1),
)
def test_order_in_which_measurements_arrive_does_not_change_a_single_bit(arrived, random):
    expected = weighted_metrics(arrived)

    random.shuffle(arrived)

    assert weighted_metrics(arrived) == expected
    assert list(weighted_metrics(arrived)) == sorted(expected)


@given(measurements)
def test_averaged_metric_lies_between_the_lowest_and_the_highest(arrived):
    averaged = weighted_metrics(arrived)

    for (task, metric), value in averaged.items():
        reported = [each.metrics[metric] for each in arrived if each.task == task and metric in each.metrics]
        assert min(reported) <= value <= max(reported)


@given(st.integers(1, 50), finite)
def test_collaborators_that_agree_are_averaged_to_what_they_agree_on(collaborators, value):
    agreeing = [Measurement(f"e{n}", "validate", n + 1, {"accuracy": value}) for n in range(collaborators)]

    assert weighted_metrics(agreeing) == {("validate", "accuracy"): value}


def test_model_is_judged_by_the_metric_that_the_plan_names():
    aggregated = {("validate", "accuracy"): 0.9, ("validate", "loss"): 0.1, ("train", "a"): 3.0}

    assert score(a_plan(metric="loss"), aggregated) == 0.1


def test_model_is_judged_by_the_first_metric_in_name_order_where_the_plan_names_none():
    aggregated = {("validate", "loss"): 0.1, ("validate", "accuracy"): 0.9, ("train", "a"): 3.0}

    assert score(a_plan(), aggregated) == 0.9


@pytest.mark.parametrize("aggregated", [{}, {("train", "loss"): 1.0}, {("validate", "loss"): math.nan}])
def test_model_that_was_not_measured_has_no_score(aggregated):
    assert score(a_plan(), aggregated) is None
    assert score(a_plan(metric="loss"), aggregated) is None


def test_plan_that_measures_nothing_has_no_score():
    only_train = plan.parse({"rounds": 1, "tasks": [{"name": "t", "kind": "train", "function": "m:t"}]})

    assert score(only_train, {("t", "loss"): 1.0}) is None


@pytest.mark.parametrize(
    ("value", "than", "mode", "wins"),
    [
        (2.0, 1.0, "max", True),
        (1.0, 2.0, "max", False),
        (1.0, 2.0, "min", True),
        (2.0, 1.0, "min", False),
        (1.0, 1.0, "max", False),
        (1.0, 1.0, "min", False),
        (0.0, None, "max", True),
        (0.0, math.nan, "min", True),
        (math.nan, 1.0, "max", False),
        (math.nan, None, "min", False),
        (None, 1.0, "max", False),
        (None, None, "max", False),
    ],
)
def test_better_score_wins_and_a_tie_keeps_the_earlier(value, than, mode, wins):
    assert better(value, than, mode) is wins
