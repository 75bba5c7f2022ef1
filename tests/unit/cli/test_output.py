"""Tables for people, JSON for programs, and nothing that a terminal would obey."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from director.cli.output import show_fields, show_json, show_table, text
from director.domain.history import Cursor
from director.domain.types import ExperimentState


@dataclass
class Thing:
    name: str
    at: datetime
    state: ExperimentState
    shape: tuple[int, ...]
    period: timedelta
    score: float


def test_json_holds_only_what_every_reader_understands(capsys):
    at = datetime(2030, 1, 1, tzinfo=UTC)

    show_json([Thing("ä", at, ExperimentState.FINISHED, (8, 8), timedelta(minutes=1), float("nan"))])

    assert json.loads(capsys.readouterr().out) == [
        {
            "name": "ä",
            "at": "2030-01-01T00:00:00+00:00",
            "state": "finished",
            "shape": [8, 8],
            "period": 60.0,
            "score": None,
        }
    ]


def test_cursor_in_json_is_the_text_that_after_reads(capsys):
    cursor = Cursor("federation", "e0", 7)

    show_json({"cursor": cursor})

    assert Cursor.parse(json.loads(capsys.readouterr().out)["cursor"]) == cursor


def test_compact_json_takes_one_line(capsys):
    show_json({"text": "two\nlines", "list": [1, 2]}, compact=True)

    assert len(capsys.readouterr().out.splitlines()) == 1


def test_columns_are_aligned_numbers_to_the_right(capsys):
    show_table(("Name", "Samples"), [("a", 5), ("longer", 12345), ("b", None)], empty="nothing")

    assert capsys.readouterr().out.splitlines() == [
        "Name    Samples",
        "a             5",
        "longer    12345",
        "b             -",
    ]


def test_empty_table_is_a_sentence(capsys):
    show_table(("Name",), [], empty="no envoy has registered yet")

    assert capsys.readouterr().out == "no envoy has registered yet\n"


def test_terminal_gets_every_cell_as_it_is_without_markup(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)

    show_table(("Name", "Samples"), [("[bold]a[/bold]", 5)], empty="nothing")

    assert "[bold]a[/bold]" in capsys.readouterr().out


def test_fields_that_are_absent_or_empty_are_left_out(capsys):
    show_fields([("State", "failed"), ("Reason", ""), ("Started", None), ("Priority", 0)])

    assert capsys.readouterr().out.splitlines() == ["State     failed", "Priority  0"]


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("red \x1b[31m text", "red �[31m text"),
        ("two\nlines", "two lines"),
        ("right\u202eleft", "right�left"),
        (True, "yes"),
        (None, "-"),
        ((8, 8), "8 × 8"),
        ((), "-"),
        (0.123456789, "0.123457"),
        (datetime(2030, 1, 1, 12, tzinfo=UTC), "2030-01-01 12:00:00"),
    ],
)
def test_value_is_written_on_one_line_that_a_terminal_does_not_obey(value, written):
    assert text(value) == written
