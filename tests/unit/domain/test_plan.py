import json
import math
from datetime import date, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from director.domain import durations, plan
from director.domain.plan import KEYS, PLAN_VERSION, Plan
from director.domain.tasks import Best, Task
from director.domain.types import TaskKind
from director.errors import InvalidPlan
from tests.strategies import json_texts, json_values, raw_plans

TRAIN = {"name": "train", "kind": "train", "function": "digits:train"}
VALIDATE = {"name": "validate", "kind": "validate", "function": "digits:validate"}
SMALL = {"rounds": 10, "tasks": [TRAIN, VALIDATE]}


def with_(**keys: Any) -> dict[str, Any]:
    return {**SMALL, **keys}


def with_task(**keys: Any) -> dict[str, Any]:
    return with_(tasks=[{**TRAIN, **keys}])


def refusal(raw: object) -> str:
    with pytest.raises(InvalidPlan) as refused:
        plan.parse(raw)
    return str(refused.value)


def test_small_plan_gets_the_documented_defaults():
    parsed = plan.parse(SMALL)

    assert parsed == Plan(
        rounds=10,
        tasks=(
            Task("train", TaskKind.TRAIN, "digits:train", {}),
            Task("validate", TaskKind.VALIDATE, "digits:validate", {}),
        ),
        rule="weighted_average",
        rule_version=1,
        best=Best(task="validate", metric=None, mode="max"),
        manual_review=False,
        min_collaborators=None,
        required_collaborators=(),
        selection=1.0,
        over_selection=0,
        percentage=None,
        cutoff=None,
        round_deadline=timedelta(hours=24),
        start_deadline=timedelta(hours=24),
        envoy_grace=timedelta(minutes=5),
        wait_past_deadline=False,
    )


def test_every_key_of_a_plan_is_read():
    parsed = plan.parse(
        with_(
            tasks=[VALIDATE, {**TRAIN, "settings": {"learning_rate": 0.5, "layers": [64, {"bias": True}]}}],
            aggregation={"rule": "weighted_average"},
            best={"task": "validate", "metric": "loss", "mode": "min"},
            review="manual",
            min_collaborators=2,
            required_collaborators=["lyon", "turku"],
            selection=0.5,
            percentage=1,
            cutoff="90s",
            round_deadline="2d",
            start_deadline=3600,
            envoy_grace=0,
            on_deadline="wait",
        )
    )

    assert parsed.train_task.settings == {"learning_rate": 0.5, "layers": [64, {"bias": True}]}
    assert [task.name for task in parsed.validate_tasks] == ["validate"]
    assert parsed.best == Best("validate", "loss", "min")
    assert (parsed.manual_review, parsed.wait_past_deadline) == (True, True)
    assert (parsed.min_collaborators, parsed.required_collaborators) == (2, ("lyon", "turku"))
    assert (parsed.selection, parsed.percentage, parsed.over_selection) == (0.5, 1.0, 0)
    assert (parsed.cutoff, parsed.round_deadline) == (timedelta(seconds=90), timedelta(days=2))
    assert (parsed.start_deadline, parsed.envoy_grace) == (timedelta(hours=1), timedelta(0))


def test_key_that_is_empty_is_left_out():
    assert plan.parse(with_(cutoff=None, best=None, required_collaborators=None)) == plan.parse(SMALL)


def test_plan_without_a_validate_task_has_no_best_model():
    assert plan.parse(with_task()).best is None


def test_settings_of_the_plan_are_not_those_of_its_source():
    settings = {"layers": [1]}

    parsed = plan.parse(with_task(settings=settings))
    settings["layers"].append(2)

    assert parsed.train_task.settings == {"layers": [1]}


@given(raw_plans())
def test_plan_comes_back_from_json_as_it_was(raw):
    parsed = plan.parse(raw)

    assert Plan.from_json(json.loads(json.dumps(parsed.to_json(), allow_nan=False))) == parsed


def test_stored_plan_of_a_rule_that_is_not_here_can_be_read():
    stored = {**plan.parse(SMALL).to_json(), "rule": "of_tomorrow", "rule_version": 7}

    read = Plan.from_json(stored)

    assert (read.rule, read.rule_version) == ("of_tomorrow", 7)


STORED = plan.parse(SMALL).to_json()


def test_stored_plan_says_its_version():
    assert STORED["version"] == PLAN_VERSION == 1


def test_stored_plan_of_a_director_before_versions_is_read():
    assert Plan.from_json({key: value for key, value in STORED.items() if key != "version"}) == plan.parse(SMALL)


@given(st.dictionaries(json_texts.filter(lambda key: key not in STORED), json_values, max_size=3))
def test_keys_that_this_version_does_not_know_are_stored_again_as_they_are(unknown):
    stored = {**STORED, **unknown}

    read = Plan.from_json(stored)

    assert read.to_json() == stored
    assert read.unknown == unknown


def test_settings_that_postgresql_wrote_otherwise_are_read():
    stored = {**STORED, "tasks": [{**TRAIN, "settings": {"scale": 10**22}}], "best": None}

    assert Plan.from_json(stored).train_task.settings == {"scale": 10**22}


@pytest.mark.parametrize(
    ("stored", "sentence"),
    [
        (None, "cannot be read: it is not a mapping"),
        ([], "cannot be read: it is not a mapping"),
        ("{}", "cannot be read: it is not a mapping"),
        ({}, "cannot be read: tasks is missing"),
        ({**STORED, "version": 2}, "has version 2; this director reads version 1"),
        ({**STORED, "version": "1"}, "has version '1'"),
        ({**STORED, "version": None}, "has version None"),
        ({**STORED, "rounds": None}, "rounds is missing"),
        ({**STORED, "rounds": "10"}, "rounds is '10'; it should be a whole number"),
        ({**STORED, "tasks": []}, "tasks should hold exactly one task of kind train"),
        ({**STORED, "tasks": [{**TRAIN, "kind": "test"}]}, "tasks[0].kind is 'test'"),
        ({**STORED, "tasks": [{**TRAIN, "settings": []}]}, "tasks[0].settings is a list"),
        ({**STORED, "tasks": [{**TRAIN, "retries": 3}]}, "tasks[0].retries is not a key of the plan"),
        ({**STORED, "rule": None}, "rule is missing"),
        ({**STORED, "rule_version": 0}, "rule_version is 0"),
        ({**STORED, "best": {"task": "train"}}, "best.task is 'train'; it should be validate"),
        ({**STORED, "manual_review": "no"}, "manual_review is 'no'; it should be true or false"),
        ({**STORED, "wait_past_deadline": 1}, "wait_past_deadline is 1; it should be true or false"),
        ({**STORED, "selection": "all"}, "selection is 'all'"),
        ({**STORED, "round_deadline": 1e30}, "round_deadline is 1e+30"),
        ({**STORED, "envoy_grace": {}}, "envoy_grace is a mapping"),
        ({**STORED, "required_collaborators": "rome"}, "required_collaborators is 'rome'"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_stored_plan_that_cannot_be_read_is_refused_in_one_sentence(stored, sentence):
    with pytest.raises(InvalidPlan) as refused:
        Plan.from_json(stored)

    assert str(refused.value).startswith("the stored plan ")
    assert sentence in str(refused.value)


@given(
    st.dictionaries(
        st.sampled_from([*STORED]), st.recursive(st.none() | st.integers() | st.floats() | st.text(), st.lists)
    )
)
def test_damaged_plan_is_read_or_refused(damage):
    try:
        read = Plan.from_json({**STORED, **damage})
    except InvalidPlan:
        return

    assert Plan.from_json(read.to_json()) == read


NESTED: list[Any] = []
for _ in range(50):
    NESTED = [NESTED]

REFUSED = [
    (None, "the plan is missing; it should be a mapping with the keys rounds, tasks"),
    ([], "the plan is a list; it should be a mapping"),
    (with_(ronds=3), "ronds is not a key of the plan; did you mean rounds?"),
    (with_(zzz=3), "zzz is not a key of the plan; known are rounds, tasks, aggregation"),
    (with_(**{"a b": 3}), "'a b' is not a key of the plan"),
    ({**SMALL, True: "wait"}, "true is not a key of the plan"),
    ({"tasks": [TRAIN]}, "rounds is missing; it should be a whole number from 1 to 100000"),
    (with_(rounds=0), "rounds is 0; it should be a whole number from 1"),
    (with_(rounds=-1), "rounds is -1;"),
    (with_(rounds=100_001), "rounds is 100001;"),
    (with_(rounds=True), "rounds is true;"),
    (with_(rounds=10.0), "rounds is 10.0;"),
    (with_(rounds="10"), "rounds is '10';"),
    (with_(rounds=10**5000), "rounds is a number of more than 64 bits;"),
    ({"rounds": 1}, "tasks is missing; it should be a list of tasks, one of them of kind train"),
    (with_(tasks=[]), "tasks should hold exactly one task of kind train, and not none"),
    (with_(tasks=TRAIN), "tasks is a mapping; it should be a list of tasks"),
    (with_(tasks=["train"]), "tasks[0] is 'train'; it should be a mapping with the keys name, kind"),
    (with_(tasks=[VALIDATE]), "tasks should hold exactly one task of kind train, and not none"),
    (with_(tasks=[TRAIN, {**TRAIN, "name": "b"}]), "exactly one task of kind train, and not 'train' and 'b'"),
    (with_(tasks=[TRAIN, {**VALIDATE, "name": "train"}]), "tasks[1].name is 'train' a second time"),
    (with_(tasks=[TRAIN, {**VALIDATE, "nmae": "x"}]), "tasks[1].nmae is not a key of the plan; did you mean name?"),
    (with_task(name=None), "tasks[0].name is missing; it should be a name"),
    (with_task(name=3), "tasks[0].name is 3; it should be a name"),
    (with_task(name=""), "tasks[0].name is empty"),
    (with_task(name="a/b"), "tasks[0].name 'a/b' holds a slash"),
    (with_task(name="a\nb"), "tasks[0].name 'a\\nb' holds a control character"),
    (with_task(name="a" * 256), "tasks[0].name has 256 characters; at most 255"),
    (with_task(kind="learn"), "tasks[0].kind is 'learn'; it should be train or validate"),
    (with_task(kind=["train"]), "tasks[0].kind is a list;"),
    (with_task(function="train"), "tasks[0].function is 'train'; it should be module:callable"),
    (with_task(function="a:b:c"), "tasks[0].function is 'a:b:c'"),
    (with_task(function="a b:c"), "tasks[0].function is 'a b:c'"),
    (with_task(function=".a:c"), "tasks[0].function is '.a:c'"),
    (with_task(function="a:"), "tasks[0].function is 'a:'"),
    (with_task(function="lambda:c"), "tasks[0].function is 'lambda:c'"),
    (with_task(function="../a:c"), "tasks[0].function is '../a:c'"),
    (with_task(settings=[1]), "tasks[0].settings is a list; it should be a mapping"),
    (with_task(settings={1: 2}), "tasks[0].settings has the key 1; keys should be texts"),
    (with_task(settings={"a": {"\0": 2}}), "tasks[0].settings.a has the key '\\x00'"),
    (with_task(settings={"a": [0, math.nan]}), "tasks[0].settings.a[1] is nan; it should be a text, a finite number"),
    (with_task(settings={"a": math.inf}), "tasks[0].settings.a is inf;"),
    (with_task(settings={"a b": {"c": date(2030, 1, 1)}}), "tasks[0].settings.'a b'.c is a date;"),
    (with_task(settings={"a": b"x"}), "tasks[0].settings.a is a bytes;"),
    (with_task(settings={"a": {1, 2}}), "tasks[0].settings.a is a set;"),
    (with_task(settings={"a": 2**63}), "tasks[0].settings.a is a number of more than 64 bits;"),
    (with_task(settings={"a": "x\0"}), "tasks[0].settings.a is 'x\\x00';"),
    (with_task(settings={"a": "\ud800"}), "tasks[0].settings.a is '\\ud800';"),
    (with_task(settings={"a": NESTED}), "is nested too deeply; at most 32 levels are allowed"),
    (with_(aggregation="weighted_average"), "aggregation is 'weighted_average'; it should be a mapping"),
    (with_(aggregation={}), "aggregation.rule is missing; it should be weighted_average"),
    (with_(aggregation={"rule": "wheel"}), "aggregation.rule is 'wheel'; it should be weighted_average"),
    (with_(aggregation={"rle": "wheel"}), "aggregation.rle is not a key of the plan; did you mean rule?"),
    (with_(best={"task": "train"}), "best.task is 'train'; it should be validate"),
    (with_(best={"task": "nobody"}), "best.task is 'nobody';"),
    (with_(best={"metric": 3}), "best.metric is 3; it should be a text of 1 to 255 printable characters"),
    (with_(best={"metric": "a\nb"}), "best.metric is 'a\\nb';"),
    (with_(best={"mode": "highest"}), "best.mode is 'highest'; it should be max or min"),
    (with_(tasks=[TRAIN], best={"metric": "loss"}), "best needs a task of kind validate"),
    (with_(review=True), "review is true; it should be auto or manual"),
    (with_(on_deadline="stop"), "on_deadline is 'stop'; it should be fail or wait"),
    (with_(min_collaborators=0), "min_collaborators is 0; it should be a whole number from 1"),
    (with_(required_collaborators="lyon"), "required_collaborators is 'lyon'; it should be a list of names of envoys"),
    (with_(required_collaborators=["a", "b", "a"]), "required_collaborators[2] is 'a' a second time"),
    (with_(required_collaborators=["a/b"]), "required_collaborators[0] 'a/b' holds a slash"),
    (with_(selection=0), "selection is 0; it should be a number above 0 and up to 1"),
    (with_(selection=1.5), "selection is 1.5;"),
    (with_(selection=True), "selection is true;"),
    (with_(percentage=math.nan), "percentage is nan;"),
    (with_(percentage=50), "percentage is 50;"),
    (with_(over_selection=-1), "over_selection is -1;"),
    (with_(percentage=0.5, over_selection=1), "percentage and over_selection both end a round early"),
    (with_(cutoff="2 weeks"), "cutoff is '2 weeks'; it should be a number of seconds, or like 90s, 30m, 24h or 2d"),
    (with_(cutoff=0), "cutoff is 0;"),
    (with_(cutoff=1e-9), "cutoff is 1e-09;"),
    (with_(cutoff=-1), "cutoff is -1;"),
    (with_(cutoff=math.inf), "cutoff is inf;"),
    (with_(cutoff="25h"), "cutoff is 90000 s; it should not be longer than round_deadline, 86400 s"),
    (with_(round_deadline="0s"), "round_deadline is '0s';"),
    (with_(start_deadline="4000d"), "start_deadline is '4000d';"),
    (with_(envoy_grace="-5m"), "envoy_grace is '-5m'; it should be a number of seconds"),
    (with_(envoy_grace=True), "envoy_grace is true;"),
]


@pytest.mark.parametrize(("raw", "sentence"), REFUSED, ids=[sentence[:60] for _, sentence in REFUSED])
def test_faulty_plan_is_refused_in_one_sentence_that_names_the_key(raw, sentence):
    said = refusal(raw)

    assert sentence in said
    assert said.isprintable()


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(KEYS) | st.integers(), inner),
    )
)
def test_whatever_a_loader_returns_is_a_plan_or_refused(raw):
    try:
        parsed = plan.parse(raw)
    except InvalidPlan:
        return

    assert isinstance(parsed, Plan)


@pytest.mark.parametrize(
    ("written", "seconds"),
    [(0, 0), (90, 90), (0.25, 0.25), ("90s", 90), ("30m", 1800), ("24h", 86_400), ("2d", 172_800), ("1.5 h", 5400)],
)
def test_length_of_time_is_read(written, seconds):
    assert durations.parse(written) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "written",
    ["", "s", "90", "90S", "1h30m", "٣s", "1e3s", "-1s", "3651d", -1, 10**18, math.nan, math.inf, True, None, []],
)
def test_what_is_no_length_of_time_is_refused(written):
    with pytest.raises(ValueError, match="length of time"):
        durations.parse(written)


def test_plan_that_its_collaborators_can_fulfil_is_accepted():
    parsed = plan.parse(with_(min_collaborators=2, required_collaborators=["b"]))

    plan.check_collaborators(parsed, ["a", "b"])


@pytest.mark.parametrize(
    ("keys", "collaborators", "sentence"),
    [
        ({}, [], "the experiment has no collaborators"),
        ({"min_collaborators": 3}, ["a", "b"], "min_collaborators is 3; it should not be above 2"),
        ({"required_collaborators": ["a", "c"]}, ["a", "b"], r"required_collaborators\[1\] is 'c'"),
    ],
)
def test_plan_that_its_collaborators_cannot_fulfil_is_refused(keys, collaborators, sentence):
    with pytest.raises(InvalidPlan, match=sentence):
        plan.check_collaborators(plan.parse(with_(**keys)), collaborators)
