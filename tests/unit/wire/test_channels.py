"""Addresses of directors, the files of mutual TLS, and the largest message."""

import itertools
from pathlib import Path

import pytest

from director.errors import InvalidArgument
from director.wire.channels import MAX_MESSAGE_BYTES, OPTIONS, TlsFiles, addresses_of, is_loopback, sync_channel

ROOT, OWN, KEY = Path("ca.pem"), Path("ada.pem"), Path("ada.key")


@pytest.mark.parametrize(
    ("text", "addresses"),
    [
        ("localhost:50051", ("localhost:50051",)),
        ("a:1, [::1]:65535 ,b.example.org:2", ("a:1", "[::1]:65535", "b.example.org:2")),
    ],
)
def test_addresses_of_directors_are_read(text, addresses):
    assert addresses_of(text) == addresses


@pytest.mark.parametrize("text", ["", "a", ":1", "a:", "a:0", "a:65536", "a:-1", "a:b", "a:1,", "a:1,b"])
def test_anything_else_is_refused_with_what_to_write(text):
    with pytest.raises(InvalidArgument, match="is not the address of a director; write HOST:PORT"):
        addresses_of(text)


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


def test_tls_is_named_with_all_its_files_or_with_none():
    assert TlsFiles.of(None, None, None) is None
    assert TlsFiles.of(ROOT, OWN, KEY) == TlsFiles(ROOT, OWN, KEY)
    for some in itertools.product((ROOT, None), (OWN, None), (KEY, None)):
        if 0 < sum(path is not None for path in some) < 3:
            with pytest.raises(InvalidArgument, match="mutual TLS needs all three"):
                TlsFiles.of(*some)


def test_missing_certificate_is_named_with_its_path(tmp_path):
    (tmp_path / "ca.pem").write_text("a certificate")
    files = TlsFiles(tmp_path / "ca.pem", tmp_path / "ada.pem", Path("nowhere"))

    with pytest.raises(InvalidArgument, match=r"the certificate '.*ada\.pem' cannot be read: No such file"):
        sync_channel("127.0.0.1:1", files, None)


def test_largest_message_is_the_largest_chunk_and_64_kibibytes_in_both_directions():
    limits = dict(OPTIONS)

    assert MAX_MESSAGE_BYTES == 4 * 2**20 + 64 * 2**10
    assert limits["grpc.max_send_message_length"] == limits["grpc.max_receive_message_length"] == MAX_MESSAGE_BYTES
