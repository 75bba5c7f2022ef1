"""A federation whose every connection is mutual TLS: callers are who their certificates say."""

from collections.abc import Iterator

import pytest
import trustme

from tests.acceptance.material import WARDS, lay_out, start_envoys, submit
from tests.acceptance.processes import Machine


@pytest.fixture(scope="module")
def certified(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine where a director with a certificate runs, and where there are certificates for others."""
    folder = tmp_path_factory.mktemp("certified")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    for name in ("director", "ada", *WARDS):
        issued = authority.issue_cert("127.0.0.1" if name == "director" else "client.invalid", common_name=name)
        issued.private_key_pem.write_to_path(str(folder / f"{name}.key"))
        issued.cert_chain_pems[0].write_to_path(str(folder / f"{name}.pem"))
    lay_out(folder)
    with Machine(folder) as machine:
        machine.serve(*identity("director"))
        yield machine


def identity(name: str) -> list[str]:
    """The options that say who somebody is."""
    return ["--root-certificate", "ca.pem", "--certificate", f"{name}.pem", "--private-key", f"{name}.key"]


def test_federation_trains_over_mutual_tls(certified: Machine) -> None:
    start_envoys(certified, options=identity)

    ended = certified.say(*submit("first"), "--wait", *identity("ada"))

    assert ended == "experiment first is finished\n"
    [listed] = certified.ask("experiment", "list", *identity("ada"))
    assert listed["owner"] == "ada"
    assert certified.ask("experiment", "list", *identity("rome")) == []


def test_envoy_that_is_not_whom_its_certificate_names_is_refused(certified: Machine) -> None:
    reason = certified.refusal("envoy", "--name", "bonn", *WARDS["rome"].options, *identity("rome"))

    assert reason == "caller 'rome' cannot act as envoy 'bonn'"


def test_caller_without_a_certificate_gets_no_answer(certified: Machine) -> None:
    reason = certified.refusal("envoys", "--patience", "0")

    assert reason.startswith(f"no answer from {certified.environment['DIRECTOR_ADDRESS']}")
