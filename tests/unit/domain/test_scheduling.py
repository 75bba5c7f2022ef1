"""Which experiments start, and that none waits for ever, with examples and over random queues."""

import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from director.domain import plan as plans
from director.domain.plan import Plan
from director.domain.scheduling import Candidate, Decision, Limits, Pending, admit

PLENTY = Limits(running=100, running_per_user=100)
START_DEADLINE = 24 * 3600.0


def a_plan(**keys: Any) -> Plan:
    return plans.parse({"rounds": 1, "tasks": [{"name": "t", "kind": "train", "function": "m:f"}], **keys})


def wanting(
    number: int,
    envoys: str,
    *,
    offline: str = "",
    failed: str = "",
    owner: str = "ann",
    absence: float = 0,
    **keys: Any,
) -> Pending:
    """An experiment that wants envoys of one letter each, some of them offline, some of them failed already."""
    candidates = [
        Candidate(envoy, envoy not in offline, absence if envoy in offline else 0.0) for envoy in sorted(envoys)
    ]
    candidates = [replace(each, absence=math.inf) if each.envoy in failed else each for each in candidates]
    return Pending(number, owner, a_plan(**keys), candidates)


def decide(*pending: Pending, engaged: str = "", running: dict[str, int] | None = None, limits: Limits = PLENTY):
    return admit(pending, engaged=dict.fromkeys(engaged, 0), running=Counter(running or {}), limits=limits)


def test_experiments_with_envoys_of_their_own_start_together():
    assert decide(wanting(1, "ab"), wanting(2, "cd")).start == (1, 2)


def test_experiment_waits_for_envoys_that_serve_another():
    assert decide(wanting(1, "ab"), wanting(2, "cd"), engaged="b").start == (2,)


def test_earlier_experiment_keeps_its_envoys_from_a_later_one():
    assert decide(wanting(1, "ab"), wanting(2, "bc"), wanting(3, "cd"), engaged="a").start == ()


def test_experiment_whose_quorum_is_offline_blocks_nobody():
    assert decide(wanting(1, "ab", offline="a"), wanting(2, "b")).start == (2,)


def test_experiment_starts_with_its_quorum_though_others_are_offline():
    assert decide(wanting(1, "abc", offline="c", min_collaborators=2)).start == (1,)
    assert decide(wanting(1, "abc", offline="c", required_collaborators=["c"], min_collaborators=2)).start == ()


def test_envoy_that_is_offline_is_reserved_too():
    assert decide(wanting(1, "abc", offline="c", min_collaborators=2), wanting(2, "cd", min_collaborators=1)).start == (
        1,
    )


def test_no_more_start_than_may_run_at_once():
    pending = wanting(1, "a"), wanting(2, "b"), wanting(3, "c")

    assert decide(*pending, running={"eve": 1}, limits=Limits(3, 3)).start == (1, 2)


def test_owner_at_the_limit_blocks_nobody_else():
    pending = wanting(1, "ab"), wanting(2, "b", owner="bob")

    assert decide(*pending, running={"ann": 2}, limits=Limits(10, 2)).start == (2,)


def test_experiment_fails_once_its_quorum_has_stayed_away_past_its_start_deadline():
    late = START_DEADLINE + 1

    decided = decide(wanting(1, "ab", offline="a", absence=late), wanting(2, "ab", offline="a", absence=late - 1))

    assert decided == Decision((), {1: "not started within its start deadline: a stayed away for more than 86400 s"})


def test_experiment_does_not_fail_for_one_that_its_quorum_can_do_without():
    decided = decide(wanting(1, "abc", offline="a", absence=START_DEADLINE + 1, min_collaborators=2))

    assert decided == Decision((1,), {})


def test_waiting_in_the_queue_never_fails_an_experiment():
    assert decide(wanting(1, "ab"), engaged="ab") == Decision((), {})


def test_failed_experiment_reserves_nothing():
    assert decide(wanting(1, "ab", offline="a", absence=START_DEADLINE + 1), wanting(2, "b")).start == (2,)


# Collaborators that failed before the start


def test_failed_collaborator_is_no_part_of_the_quorum_though_its_envoy_is_online():
    assert decide(wanting(1, "abc", failed="c", min_collaborators=2)).start == (1,)
    assert not wanting(1, "abc", failed="c", min_collaborators=3).quorum_online
    assert not wanting(1, "abc", failed="c", required_collaborators=["c"], min_collaborators=1).quorum_online


def test_envoy_of_a_failed_collaborator_is_neither_waited_for_nor_reserved():
    keys = {"min_collaborators": 2}

    assert decide(wanting(1, "abc", failed="c", **keys), engaged="c").start == (1,)
    assert decide(wanting(1, "abc", failed="c", **keys), wanting(2, "c"), engaged="a").start == (2,)


def test_experiment_fails_at_once_when_failures_leave_too_few():
    assert decide(wanting(1, "ab", failed="b"), wanting(2, "a")) == Decision(
        (2,), {1: "its quorum is out of reach: b failed before the start"}
    )


def test_experiment_fails_when_failures_and_absences_leave_too_few():
    pending = wanting(1, "abc", failed="c", offline="b", absence=START_DEADLINE + 1, min_collaborators=2)

    assert decide(pending).fail == {
        1: "its quorum is out of reach: c failed before the start; b stayed away for more than 86400 s"
    }


def test_reason_names_twenty_envoys_and_counts_the_others():
    candidates = [Candidate(f"envoy-{number:02}", False, START_DEADLINE + 1) for number in range(23)]

    [reason] = decide(Pending(1, "ann", a_plan(), candidates)).fail.values()

    assert "envoy-19 and 3 more stayed away" in reason
    assert "envoy-20" not in reason


# Laws


def some_of(letters: str, *, least: int = 0) -> st.SearchStrategy[str]:
    """Some of the letters, in order."""
    masks = st.integers(1 if least else 0, 2 ** len(letters) - 1)
    return masks.map(lambda mask: "".join(each for place, each in enumerate(letters) if mask >> place & 1))


@st.composite
def queues(draw: st.DrawFn) -> dict[str, Any]:
    """A queue in rank order, and what runs; an envoy is offline for all or for none."""
    offline = draw(some_of("abcde"))
    absence = draw(st.sampled_from([60.0, START_DEADLINE + 1]))
    pending = []
    for number in range(draw(st.integers(0, 5))):
        envoys = draw(some_of("abcde", least=1))
        keys = {"min_collaborators": draw(st.integers(1, len(envoys)))}
        required = {"required_collaborators": [envoys[0]]} if draw(st.booleans()) else {}
        owner = draw(st.sampled_from(["ann", "bob"]))
        pending.append(wanting(number, envoys, offline=offline, owner=owner, absence=absence, **keys, **required))
    return {
        "pending": pending,
        "engaged": dict.fromkeys(draw(some_of("abcde")), 99),
        "running": Counter(ann=draw(st.integers(0, 3)), bob=draw(st.integers(0, 3))),
        "limits": Limits(draw(st.integers(1, 6)), draw(st.integers(1, 4))),
    }


def wanted_by(numbers: Sequence[int], pending: Sequence[Pending]) -> list[str]:
    return [envoy for each in pending if each.id in numbers for envoy in each.envoys]


@given(queues())
def test_nobody_serves_two(queue: dict[str, Any]):
    started = wanted_by(admit(**queue).start, queue["pending"])

    assert len(started) == len(set(started))
    assert not set(started) & set(queue["engaged"])


@given(queues())
def test_limits_hold(queue: dict[str, Any]):
    decided = admit(**queue)
    owners = Counter(each.owner for each in queue["pending"] if each.id in decided.start)
    load, limits = queue["running"] + owners, queue["limits"]

    assert load.total() <= max(limits.running, queue["running"].total())
    for owner, number in owners.items():
        assert number == 0 or load[owner] <= limits.running_per_user


@given(queues())
def test_only_those_with_their_quorum_online_start_and_in_the_order_of_the_queue(queue: dict[str, Any]):
    decided = admit(**queue)
    ready = [each.id for each in queue["pending"] if each.quorum_online]

    assert set(decided.start) <= set(ready)
    assert list(decided.start) == [number for number in ready if number in decided.start]
    assert not set(decided.start) & set(decided.fail)


@given(queues())
def test_nobody_is_passed_by_for_an_envoy_that_it_could_use(queue: dict[str, Any]):
    decided, load = admit(**queue), Counter(queue["running"])

    passed: set[str] = set()
    for each in queue["pending"]:
        if each.id in decided.start:
            assert not each.envoys & passed
            load[each.owner] += 1
        elif each.id not in decided.fail and each.quorum_online and load[each.owner] < queue["limits"].running_per_user:
            passed |= each.envoys


@given(queues())
def test_those_whose_quorum_is_offline_make_no_difference(queue: dict[str, Any]):
    ready = [each for each in queue["pending"] if each.quorum_online]

    assert admit(**queue).start == admit(**{**queue, "pending": ready}).start


@given(queues())
def test_first_one_that_is_ready_starts_if_there_is_room_and_its_envoys_are_free(queue: dict[str, Any]):
    load, limits = queue["running"], queue["limits"]
    ready = [
        each
        for each in queue["pending"]
        if each.quorum_online and each.given_up() is None and load[each.owner] < limits.running_per_user
    ]

    if ready and load.total() < limits.running and not ready[0].envoys & set(queue["engaged"]):
        assert ready[0].id in admit(**queue).start


@given(st.data(), st.integers(1, 4))
def test_nobody_starves_however_many_small_ones_keep_coming(data: st.DataObject, limit: int):
    lengths, queue, running = {}, [wanting(0, "abcdef")], {1000: ("abc", 2), 1001: ("def", 1)}
    started_at: dict[int, int] = {}

    for hour in range(1, 60):
        queue.append(wanting(hour, data.draw(some_of("abcdef", least=1))))
        lengths[hour] = data.draw(st.integers(1, 3))
        running = {number: (envoys, left - 1) for number, (envoys, left) in running.items() if left > 1}
        engaged = "".join(envoys for envoys, _ in running.values())
        decided = decide(*queue, engaged=engaged, running={"ann": len(running)}, limits=Limits(limit, 100))
        for number in decided.start:
            started_at[number] = hour
            [one] = [each for each in queue if each.id == number]
            running[number] = ("".join(one.envoys), lengths.get(number, 1))
        queue = [each for each in queue if each.id not in decided.start]
        if 0 in started_at:
            break

    assert started_at.get(0, 60) <= 4


@pytest.mark.parametrize("running", [0, 1])
def test_those_behind_one_that_waits_for_room_do_not_take_its_envoys(running: int):
    pending = wanting(1, "ab"), wanting(2, "a")

    decided = decide(*pending, running={"bob": running}, limits=Limits(1, 1))

    assert decided.start == ((1,) if running == 0 else ())


class Hours:
    """A federation that lives through many submissions: envoys come and go, experiments start and end."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.limits = Limits(running=4, running_per_user=3)
        self.queue: list[Pending] = []
        self.running: dict[int, tuple[Pending, int]] = {}
        self.waited: dict[int, int] = {}
        self.longest = 0

    def submit(self, number: int) -> None:
        """Submit an experiment of a few envoys."""
        envoys = "".join(self.chance.sample("abcdefgh", self.chance.choice((1, 1, 2, 2, 3, 5))))
        minimum = self.chance.randint(1, len(envoys))
        self.queue.append(wanting(number, envoys, owner=self.chance.choice("xyz"), min_collaborators=minimum))
        self.waited[number] = 0

    def pass_by(self) -> None:
        """Let an hour pass: some end, some envoys are away, and it is decided who starts."""
        self.running = {number: (each, left - 1) for number, (each, left) in self.running.items() if left > 1}
        away = set(self.chance.sample("abcdefgh", self.chance.choice((0, 0, 0, 1, 2))))
        present = [replace(each, candidates=seen_without(each, away)) for each in self.queue]
        engaged = {envoy: number for number, (each, _) in self.running.items() for envoy in each.envoys}
        owners = Counter(each.owner for each, _ in self.running.values())
        decided = admit(present, engaged=engaged, running=owners, limits=self.limits)
        for each in [each for each in present if each.id in decided.start]:
            assert each.quorum_online
            assert not each.envoys & engaged.keys()
            engaged |= dict.fromkeys(each.envoys, each.id)
            self.running[each.id] = each, self.chance.randint(1, 3)
            self.longest = max(self.longest, self.waited.pop(each.id))
        assert len(self.running) <= self.limits.running
        assert max(Counter(each.owner for each, _ in self.running.values()).values(), default=0) <= 3
        assert decided.fail == {}
        self.queue = [each for each in self.queue if each.id not in decided.start]
        self.waited = {number: hours + 1 for number, hours in self.waited.items()}


def seen_without(pending: Pending, away: set[str]) -> list[Candidate]:
    return [replace(each, online=each.envoy not in away) for each in pending.candidates]


def test_ten_thousand_submissions_all_start_in_time_and_nobody_ever_serves_two():
    hours = Hours(seed=1)

    for number in range(10_000):
        hours.submit(number)
        while len(hours.queue) > 12:
            hours.pass_by()
    while hours.queue:
        hours.pass_by()

    assert hours.longest < 200
