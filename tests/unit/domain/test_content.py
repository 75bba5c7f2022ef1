import hashlib

import pytest

from director.domain.content import Content
from director.errors import InvalidArgument

DIGEST = hashlib.sha256(b"bytes").hexdigest()


def test_digest_is_given_as_text_or_as_bytes():
    content = Content(5, DIGEST)

    assert content.sha256 == hashlib.sha256(b"bytes").digest()
    assert Content.of_sha256(5, content.sha256) == content


@pytest.mark.parametrize(
    ("size_bytes", "digest"),
    [
        (-1, DIGEST),
        (5, ""),
        (5, DIGEST[:-1]),
        (5, DIGEST + "0"),
        (5, DIGEST.upper()),
        (5, "g" * 64),
        (5, DIGEST + "\n"),
    ],
    ids=["negative", "empty", "short", "long", "upper case", "not hexadecimal", "with a line end"],
)
def test_anything_else_names_no_bytes(size_bytes, digest):
    with pytest.raises(InvalidArgument, match=r"announced by their length and their SHA-256 \(32 bytes\)"):
        Content(size_bytes, digest)


@pytest.mark.parametrize("sha256", [b"", bytes(31), bytes(33)])
def test_digest_of_another_length_names_no_bytes(sha256):
    with pytest.raises(InvalidArgument, match="SHA-256"):
        Content.of_sha256(0, sha256)
