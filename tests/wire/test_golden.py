"""The wire as bytes: what was written stays readable, and is written the same."""

import re
from pathlib import Path

import pytest
from google.protobuf.message_factory import GetMessageClass

from tests.wire.golden import FILES, FOLDER, descriptors, golden, variants

PROTOS = sorted(Path("protos/director/v1").glob("*.proto"))


def test_every_proto_is_among_the_files():
    assert [file.DESCRIPTOR.name for file in FILES] == [f"director/v1/{proto.name}" for proto in PROTOS]


def test_every_message_has_its_bytes_and_no_others_are_there():
    assert {path.name for path in FOLDER.glob("*.bin")} == golden().keys()


@pytest.mark.parametrize("name", golden())
def test_message_is_written_as_ever(name):
    assert golden()[name] == (FOLDER / name).read_bytes()


@pytest.mark.parametrize("name", descriptors())
def test_message_is_read_as_ever(name):
    descriptor = descriptors()[name]

    for index, message in enumerate(variants(descriptor)):
        read = GetMessageClass(descriptor).FromString((FOLDER / f"{name}.{index}.bin").read_bytes())
        assert read == message


@pytest.mark.parametrize("proto", PROTOS, ids=lambda path: path.name)
def test_every_rpc_says_what_it_does_and_which_codes_it_returns(proto):
    lines = proto.read_text().splitlines()
    calls = [index for index, line in enumerate(lines) if re.match(r"\s*rpc ", line)]

    for index in calls:
        assert lines[index - 1].strip().startswith("//"), lines[index]
