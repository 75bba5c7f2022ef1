"""Who may be named in a header, and which addresses never leave the machine."""

from pathlib import Path

import pytest

from director.errors import InvalidArgument
from director.wire.channels import TlsFiles, is_loopback, sync_channel


@pytest.mark.parametrize("client_id", ["zoë", "two\nlines", " ada", "ada ", "\x1b[31m"])
def test_client_id_that_cannot_travel_in_a_header_is_refused(client_id):
    with pytest.raises(InvalidArgument, match="client id"):
        sync_channel("127.0.0.1:1", None, client_id)


@pytest.mark.parametrize(
    ("address", "stays"),
    [
        ("127.0.0.1:50051", True),
        ("127.8.9.1:50051", True),
        ("localhost:50051", True),
        ("[::1]:50051", True),
        ("0.0.0.0:50051", False),
        ("director.example.org:50051", False),
        ("localhost.example.org:50051", False),
    ],
)
def test_loopback_is_told_from_the_rest_of_the_world(address, stays):
    assert is_loopback(address) is stays


def test_missing_certificate_is_named_with_its_path(tmp_path):
    (tmp_path / "ca.pem").write_text("a certificate")
    files = TlsFiles(tmp_path / "ca.pem", tmp_path / "ada.pem", Path("nowhere"))

    with pytest.raises(InvalidArgument, match=r"the certificate '.*ada\.pem' cannot be read: No such file"):
        sync_channel("127.0.0.1:1", files, None)
