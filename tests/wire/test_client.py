"""The researcher's client against a real director, over wires that break and directors that restart."""

import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import safetensors.numpy

from director.client import ExperimentState, Federation, ModelReference
from director.errors import (
    AlreadyExists,
    Conflict,
    EnvoyNotFound,
    ExperimentNotFound,
    Forbidden,
    InvalidArgument,
    InvalidPlan,
    ModelNotFound,
    ModelNotReady,
    PreconditionFailed,
    Unavailable,
)
from tests.wire.calls import until
from tests.world import PLAN

MODEL = {"weights": np.arange(8, dtype=np.float32), "bias": np.array([0.5])}
LARGE = {"weights": np.random.default_rng(1).random(256 * 1024)}
LARGE_BYTES = LARGE["weights"].nbytes  # 2 MiB: 128 chunks


def submit(researcher, workspace, name="one", model=MODEL, **more):
    return researcher.submit(name, workspace=workspace, model=model, collaborators=["a"], **more)


def same(one, two):
    return one.keys() == two.keys() and all(np.array_equal(one[name], two[name]) for name in one)


def test_federation_and_its_envoys_are_told(researcher, envoy):
    assert len(researcher.federation().epoch) == 32
    assert [(each.name, each.shard.samples, each.online) for each in researcher.envoys()] == [("a", 10, True)]


def test_experiment_runs_from_its_submission_to_its_best_model(researcher, envoy, workspace, tmp_path):
    handle = submit(researcher, workspace, users=["colleague"])
    threading.Thread(target=envoy.take_part).start()

    info = handle.wait(timeout=30)

    assert (info.state, info.round, info.last_model) == (ExperimentState.FINISHED, 3, 2)
    assert info.plan["rounds"] == 2
    assert same(handle.model("initial"), MODEL)
    assert same(handle.model("last"), handle.model(2))
    assert handle.model("last")["weights"].tolist() == [2.0] * 8
    assert handle.download_model("best", tmp_path / "best.safetensors") == info.best_model
    assert same(safetensors.numpy.load_file(tmp_path / "best.safetensors"), handle.model("best"))
    assert [metric.cursor.seq for metric in handle.metrics()] == list(range(1, len(list(handle.metrics())) + 1))
    assert [event.kind for event in handle.events()][-1] == "experiment_finished"


def test_model_from_a_file_is_the_model_of_the_file(researcher, envoy, workspace, tmp_path):
    safetensors.numpy.save_file(MODEL, tmp_path / "model.safetensors")

    handle = submit(researcher, workspace, model=tmp_path / "model.safetensors")

    assert same(handle.model("initial"), MODEL)


def test_model_that_the_director_holds_is_referred_to_and_not_sent(proxy, researcher, envoy, workspace):
    source = submit(researcher, workspace, model=LARGE)

    with Federation(proxy.address, client_id="researcher") as far:
        submit(far, workspace, name="two", model=ModelReference(source.uid, 0))

    assert proxy.sent < LARGE_BYTES / 10
    assert same(researcher.experiment("two").model("initial"), LARGE)


def test_submission_that_is_repeated_is_one_experiment(researcher, envoy, workspace):
    first = submit(researcher, workspace, submission_id="one-and-only")
    second = submit(researcher, workspace, submission_id="one-and-only")

    assert first.uid == second.uid
    assert [info.name for info in researcher.experiments()] == ["one"]


def test_name_that_is_taken_is_refused(researcher, envoy, workspace):
    submit(researcher, workspace)

    with pytest.raises(AlreadyExists, match="'one'"):
        submit(researcher, workspace)


def test_director_refuses_with_its_own_errors_and_words(researcher, envoy, workspace, make_workspace):
    with pytest.raises(InvalidPlan, match="rounds"):
        submit(researcher, make_workspace("bad", PLAN.replace("rounds: 2", "rounds: 0")))
    with pytest.raises(ExperimentNotFound):
        researcher.experiment("nowhere")
    with pytest.raises(InvalidArgument, match="submission id"):
        submit(researcher, workspace, submission_id="short")
    with pytest.raises((InvalidArgument, EnvoyNotFound), match="'b'"):
        researcher.submit("two", workspace=workspace, model=MODEL, collaborators=["a", "b"])


def test_experiment_of_somebody_else_is_not_there(director, researcher, envoy, workspace):
    submit(researcher, workspace, users=["colleague"])

    with Federation(director.address, client_id="colleague") as shared:
        assert shared.experiment("one").info.owner == "researcher"
        with pytest.raises(Forbidden):
            shared.experiment("one").cancel()
    with Federation(director.address, client_id="stranger") as strange, pytest.raises(ExperimentNotFound):
        strange.experiment("one")


def test_model_that_is_not_there_leaves_no_file(researcher, envoy, workspace, tmp_path):
    handle = submit(researcher, workspace)
    folder = tmp_path / "models"
    folder.mkdir()

    with pytest.raises(ModelNotReady):
        handle.download_model("last", folder / "model.safetensors")
    with pytest.raises(ModelNotFound):
        handle.download_model(7, folder / "model.safetensors")
    with pytest.raises(InvalidArgument, match="'newest'"):
        handle.model("newest")
    with pytest.raises(InvalidArgument, match="cannot be written"):
        handle.download_model("initial", tmp_path / "no such folder" / "model.safetensors")

    assert list(folder.iterdir()) == []


def test_list_goes_on_behind_its_first_page(researcher, envoy, workspace, monkeypatch):
    monkeypatch.setattr("director.services.paging.DEFAULT_PAGE", 2)
    for name in ("1", "2", "3", "4", "5"):
        submit(researcher, workspace, name=name)

    names = [info.name for info in researcher.experiments()]

    assert names == ["5", "4", "3", "2", "1"]


def test_handle_of_a_closed_federation_says_so(director, envoy, workspace):
    with Federation(director.address, client_id="researcher") as opened:
        handle = submit(opened, workspace)

    for deed in (handle.refresh, lambda: list(handle.metrics()), handle.model, opened.federation):
        with pytest.raises(PreconditionFailed, match="is closed"):
            deed()


def test_wait_gives_up_in_time(researcher, envoy, workspace):
    handle = submit(researcher, workspace)

    with pytest.raises(TimeoutError, match="still"):
        handle.wait(timeout=0.2)


def test_cancelled_experiment_stays_cancelled_and_a_removed_one_is_gone(researcher, envoy, workspace):
    handle = submit(researcher, workspace)

    assert handle.cancel("no need").state is ExperimentState.CANCELLED
    assert handle.cancel().reason == "no need"
    assert [event.kind for event in handle.events(follow=True)][-1] == "experiment_cancelled"
    handle.remove()

    assert list(researcher.experiments()) == []
    with pytest.raises(ExperimentNotFound):
        handle.remove()


def test_operator_decides_on_what_waits_for_a_review(director, researcher, envoy, make_workspace):
    reviewed = make_workspace("reviewed", PLAN + "review: manual\n")
    submit(researcher, reviewed, name="good")
    submit(researcher, reviewed, name="bad")

    with Federation(director.address, client_id="operator") as operator:
        assert operator.experiment("bad").reject("too bold").reason == "too bold"
        assert operator.experiment("good").approve().state in (ExperimentState.PENDING, ExperimentState.IN_PROGRESS)
        with pytest.raises(PreconditionFailed):
            operator.experiment("good").approve()
    with pytest.raises(Forbidden):
        researcher.experiment("good").approve()


def test_upload_that_breaks_off_goes_on_where_it_was(proxy, researcher, envoy, workspace):
    proxy.cut_when_sent = 3 * LARGE_BYTES // 4

    with Federation(proxy.address, client_id="researcher") as far:
        handle = submit(far, workspace, model=LARGE)

    assert proxy.cut_when_sent is None
    assert proxy.sent < 1.6 * LARGE_BYTES
    assert same(researcher.experiment(handle.name).model("initial"), LARGE)


def test_download_that_breaks_off_goes_on_where_it_was(proxy, researcher, envoy, workspace, tmp_path):
    submit(researcher, workspace, model=LARGE)

    with Federation(proxy.address, client_id="researcher") as far:
        handle = far.experiment("one")
        proxy.cut_when_received = proxy.received + 3 * LARGE_BYTES // 4
        handle.download_model("initial", tmp_path / "model.safetensors")
        read = proxy.received
        proxy.cut_when_received = proxy.received + 3 * LARGE_BYTES // 4
        model = handle.model("initial")

    assert read < 1.5 * LARGE_BYTES
    assert same(safetensors.numpy.load_file(tmp_path / "model.safetensors"), LARGE)
    assert same(model, LARGE)


def test_metrics_are_followed_through_a_restart_without_a_gap(director, researcher, envoy, workspace):
    handle = submit(researcher, workspace)
    followed = []
    reader = threading.Thread(target=lambda: followed.extend(handle.metrics(follow=True)))
    reader.start()
    envoy.take_part(rounds=1)
    until(lambda: followed)

    director.stop()
    director.start()
    threading.Thread(target=envoy.take_part).start()
    reader.join(30)

    assert not reader.is_alive()
    assert handle.refresh().state is ExperimentState.FINISHED
    assert followed == list(handle.metrics())
    assert [metric.cursor.seq for metric in followed] == list(range(1, len(followed) + 1))


def test_cursor_goes_on_behind_what_was_read_and_one_of_another_epoch_is_refused(researcher, envoy, workspace):
    handle = submit(researcher, workspace)
    handle.cancel()
    events = list(handle.events())

    rest = list(handle.events(after=events[0].cursor))

    assert rest == events[1:]
    assert rest
    with pytest.raises(Conflict):
        list(handle.events(after=replace(events[0].cursor, epoch="of long ago")))


def test_replica_that_is_gone_is_passed_over(director, envoy):
    with Federation(f"127.0.0.1:1,{director.address}", client_id="researcher", patience=0) as replicas:
        assert [each.name for each in replicas.envoys()] == ["a"]


def test_director_that_comes_back_in_time_is_waited_for(director, researcher, envoy):
    director.stop()
    later = threading.Timer(1.0, director.start)
    later.start()

    envoys = list(researcher.envoys())

    later.join()
    assert [each.name for each in envoys] == ["a"]


def test_nobody_at_the_address_is_told_once_patience_ends():
    started = time.monotonic()

    with (
        Federation("127.0.0.1:1", client_id="researcher", patience=0.5) as nobody,
        pytest.raises(Unavailable, match=r"no answer from 127\.0\.0\.1:1 within 0\.5 s"),
    ):
        list(nobody.envoys())

    assert time.monotonic() - started < 10


def test_submission_that_no_director_takes_says_how_to_go_on(workspace):
    with (
        Federation("127.0.0.1:1", client_id="researcher", patience=0) as nobody,
        pytest.raises(Unavailable, match="submission id chosen-before"),
    ):
        submit(nobody, workspace, submission_id="chosen-before")


@pytest.mark.parametrize("deed", ["remove", "approve", "reject"])
def test_deed_whose_answer_is_lost_is_not_refused_when_it_is_repeated(deed, proxy, researcher, envoy, make_workspace):
    handle = submit(researcher, make_workspace("reviewed", PLAN + "review: manual\n"))

    with Federation(proxy.address, client_id="operator") as far:
        distant = far.experiment("one")
        proxy.muted = True
        outcome = []
        doing = threading.Thread(target=lambda: outcome.append(getattr(distant, deed)()))
        doing.start()
        until(lambda: f"experiment_{deed.rstrip('e')}" in " ".join(kinds(researcher)))
        proxy.muted = False
        proxy.cut()
        doing.join(20)

    assert len(outcome) == 1
    assert handle.name == "one"


def kinds(researcher):
    """What has happened to the experiment, as far as its owner can see."""
    try:
        return [event.kind for event in researcher.experiment("one").events()]
    except ExperimentNotFound:
        return ["experiment_removed"]
