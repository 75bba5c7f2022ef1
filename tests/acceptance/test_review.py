"""A plan that asks for a manual review: operators decide, and nobody else."""

from tests.acceptance.material import lay_out, start_envoys, submit
from tests.acceptance.processes import Machine

OPERATOR = {"DIRECTOR_CLIENT_ID": "olga"}


def test_operator_approves_and_rejects_and_others_may_not(machine: Machine) -> None:
    lay_out(machine.folder, more="review: manual\n")
    (machine.folder / "director.yaml").write_text("settings: {operators: [olga]}\n")
    machine.serve("--director-config-path", "director.yaml")
    start_envoys(machine)
    machine.say(*submit("good"))
    machine.say(*submit("bad"))

    waits = machine.say("why", "good")
    refused = machine.refusal("experiment", "approve", "good")
    approved = machine.say("experiment", "approve", "good", **OPERATOR)
    rejected = machine.say("experiment", "reject", "bad", "--reason", "too bold", **OPERATOR)
    machine.say("experiment", "metrics", "good", "--follow")

    assert waits == "a manual review: an operator approves or rejects it\n"
    assert refused == "only operators approve and reject experiments"
    assert approved in ("experiment good is pending\n", "experiment good is in_progress\n")
    assert rejected == "experiment bad is rejected\n"
    assert machine.say("why", "good") == "nothing: it is finished\n"
    assert machine.say("why", "bad") == "nothing: it is rejected\nthe reason given: too bold\n"
    assert "waits for no manual review: it is rejected" in machine.refusal("experiment", "approve", "bad", **OPERATOR)
