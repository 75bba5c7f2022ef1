import pytest
from hypothesis import given

from director.domain.limits import MAX_FAILURE_TEXT
from director.domain.names import (
    LONGEST_TEXT,
    check_experiment_name,
    check_name,
    check_submission_id,
    check_text,
    is_uid,
    storable,
)
from director.errors import InvalidArgument
from tests.strategies import names, texts, uids


@given(names)
def test_name_is_returned_as_it_is(name: str):
    assert check_name("the name", name) == name


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("", "is empty"),
        ("x" * 256, "256 characters; at most 255"),
        ("hospital/ward", "slash"),
        ("hospital\\ward", "slash"),
        ("tab\there", "control character"),
        ("nul\0", "control character"),
        ("line\u2028separator", "control character"),
        ("half a \ud800 character", "control character"),
        (".", "dot"),
        ("..", "dot"),
        (" leading", "space"),
        ("trailing ", "space"),
        ("\u00a0", "space"),
    ],
)
def test_bad_name_is_refused_in_a_sentence_that_says_whose_it_is(name: str, wrong: str):
    with pytest.raises(InvalidArgument, match=f"the envoy's name.*{wrong}"):
        check_name("the envoy's name", name)


@pytest.mark.parametrize("name", ["Krankenhaus Süd", "病院", "a.b", "...", "x" * 255, "🏥"])
def test_name_may_be_in_any_language(name: str):
    assert check_name("the name", name) == name


@given(uids)
def test_experiment_may_not_be_named_like_a_uid(uid: str):
    for name in (uid, uid.upper()):
        assert is_uid(name)
        with pytest.raises(InvalidArgument, match=f"{name}' looks like a uid, 32 hexadecimal digits; choose another"):
            check_experiment_name(name)


@pytest.mark.parametrize(
    "name", ["digits", "a" * 31, "a" * 33, "g" * 32, "0" * 31 + "-", "٣" * 32, "deadbeef", "x" + "0" * 32]
)
def test_experiment_may_have_any_other_name(name: str):
    assert not is_uid(name)
    assert check_experiment_name(name) == name


def test_uid_with_a_line_end_is_neither_a_uid_nor_a_name():
    assert not is_uid("a" * 32 + "\n")
    with pytest.raises(InvalidArgument, match=r"the experiment's name .* control character"):
        check_experiment_name("a" * 32 + "\n")


@given(texts)
def test_text_of_any_lines_is_returned_as_it_is(text: str):
    assert check_text("the reason", text) == text


@pytest.mark.parametrize(
    ("text", "wrong"),
    [("x" * (LONGEST_TEXT + 1), "65537 characters; at most 65536"), ("a\0b", "NUL"), ("a\ud800", "half a character")],
)
def test_text_that_cannot_be_stored_is_refused(text: str, wrong: str):
    with pytest.raises(InvalidArgument, match=f"the reason .*{wrong}"):
        check_text("the reason", text)


def test_failure_is_stored_without_what_cannot_be_stored_and_by_its_end():
    assert storable("a\0b\ud800\n") == "a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}"
    assert storable("x" * MAX_FAILURE_TEXT + "ValueError").endswith("xValueError")
    assert len(storable("x" * MAX_FAILURE_TEXT + "ValueError")) == MAX_FAILURE_TEXT


@pytest.mark.parametrize("submission_id", ["a" * 8, "Z" * 64, "2030-01-01_first"])
def test_submission_id_is_letters_digits_hyphens_and_underscores(submission_id: str):
    assert check_submission_id(submission_id) == submission_id


@pytest.mark.parametrize(
    "submission_id", ["", "a" * 7, "a" * 65, "with space", "slash/slash", "ümlaut-ümlaut", "a" * 8 + "\n"]
)
def test_anything_else_is_no_submission_id(submission_id: str):
    with pytest.raises(InvalidArgument, match="8 to 64 characters"):
        check_submission_id(submission_id)
