import pytest
from hypothesis import given

from director.domain.names import check_name, check_submission_id
from director.errors import InvalidArgument
from tests.strategies import names


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


@pytest.mark.parametrize("submission_id", ["a" * 8, "Z" * 64, "2030-01-01_first"])
def test_submission_id_is_letters_digits_hyphens_and_underscores(submission_id: str):
    assert check_submission_id(submission_id) == submission_id


@pytest.mark.parametrize(
    "submission_id", ["", "a" * 7, "a" * 65, "with space", "slash/slash", "ümlaut-ümlaut", "a" * 8 + "\n"]
)
def test_anything_else_is_no_submission_id(submission_id: str):
    with pytest.raises(InvalidArgument, match="8 to 64 characters"):
        check_submission_id(submission_id)
