"""The command line: help without a wait, one line for what failed, and the right exit status."""

import json
import subprocess
import sys

import click
import pytest

from director.cli import main
from director.cli.main import COMMANDS, Lazy, run
from director.errors import ExperimentNotFound
from director.version import __version__

HEAVY = ("grpc", "numpy", "sqlalchemy", "google.protobuf", "rich", "pydantic", "asyncio", "alembic")


def modules_after(*arguments: str) -> tuple[int, set[str]]:
    """The exit status of a command line in a process of its own, and the modules it has imported at its end."""
    code = (
        "import sys, json\n"
        "from director.cli.main import run\n"
        f"status = run({list(arguments)!r})\n"
        "print(json.dumps([status, sorted(sys.modules)]), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    status, modules = json.loads(done.stderr.splitlines()[-1])
    return status, set(modules)


@pytest.fixture
def failing(monkeypatch):
    """Makes the command `fail` raise what it is given."""

    def install(error: BaseException) -> None:
        @click.command()
        def fail() -> None:
            raise error

        monkeypatch.setattr(sys.modules[__name__], "fail", fail, raising=False)
        monkeypatch.setattr(main, "COMMANDS", {"fail": Lazy(f"{__name__}:fail", "Fail.")})

    return install


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["experiment", "--help"],
        ["experiment", "submit", "--help"],
        ["envoys", "-h"],
        ["envoys", "--online", "--help"],
        ["why", "-h"],
    ],
)
def test_help_imports_nothing_heavy(arguments):
    status, modules = modules_after(*arguments)

    assert status == 0
    assert not modules.intersection(HEAVY)


def test_help_lists_every_command_with_what_it_does(capsys):
    assert run(["--help"]) == 0

    listed = capsys.readouterr().out
    assert all(name in listed and command.summary in listed for name, command in COMMANDS.items())


@pytest.mark.parametrize("name", ["experiment", "envoys", "why"])
def test_summary_in_the_table_is_what_the_command_says_of_itself(name):
    command = main.director.get_command(click.Context(main.director), name)

    assert command.name == name
    assert COMMANDS[name].summary.rstrip(".").split()[0] == command.help.split()[0]


def test_version_is_printed(capsys):
    assert run(["--version"]) == 0

    assert __version__ in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["nonsense"], "No such command"),
        (["--nonsense"], "No such option"),
        (["why"], "Missing argument"),
        (["experiment", "submit", "x"], "either --workspace or --archive"),
        (["experiment", "submit", "x", "--archive", __file__, "--collaborator", "a"], "either --model or --model-from"),
        (["experiment", "submit", "x", "--model-from", "digits"], "not EXPERIMENT:NUMBER"),
        (["experiment", "submit", "x", "--model-from", "digits:-1"], "not EXPERIMENT:NUMBER"),
        (["experiment", "submit", "x", "--model-from", ":7"], "not EXPERIMENT:NUMBER"),
        (["experiment", "submit", "x", "--model", __file__, "--collaborator", "a"], "either --workspace or --archive"),
        (["experiment", "submit", "x", "--model", __file__, "--archive", __file__], "at least one --collaborator"),
        (["experiment", "submit", "x", "--model", "/nowhere/at/all"], "does not exist"),
        (["experiment", "model", "x", "--type", "best", "--number", "3", "--output", "f"], "either --type or --number"),
        (["experiment", "model", "x", "--type", "newest", "--output", "f"], "newest"),
        (["experiment", "metrics", "x", "--after", "7"], "'7' is not a cursor"),
        (["experiment", "events", "x", "--after", "one:zz:1"], "is not a cursor"),
        (["envoys", "events", "--after", ""], "is not a cursor"),
        (["envoys", "--certificate", "ada.pem"], "needs all three: --root-certificate"),
        (["envoys", "--json", "retire", "rome"], "unexpected extra arguments"),
        (["envoys", "retire"], "Missing argument"),
    ],
)
def test_wrong_usage_is_explained_and_has_status_2(arguments, complaint, capsys):
    assert run(arguments) == 2

    printed = capsys.readouterr()
    assert complaint in printed.err
    assert printed.out == ""


def test_error_of_the_director_is_one_line_with_status_1(failing, capsys):
    failing(ExperimentNotFound("no experiment\nnamed 'x'"))

    assert run(["fail"]) == 1

    printed = capsys.readouterr()
    assert printed.err == "Error: no experiment named 'x'\n"
    assert printed.out == ""


def test_error_of_the_system_names_the_file(failing, capsys):
    failing(PermissionError(13, "Permission denied", "/root/model"))

    assert run(["fail"]) == 1

    assert capsys.readouterr().err == "Error: /root/model: Permission denied\n"


def test_interrupt_is_quiet_with_status_130(failing, capsys):
    failing(KeyboardInterrupt())

    assert run(["fail"]) == 130

    printed = capsys.readouterr()
    assert (printed.out + printed.err).strip() == ""


def test_defect_is_called_one_below_its_traceback(failing, capsys):
    failing(ZeroDivisionError("by zero"))

    assert run(["fail"]) == 1

    printed = capsys.readouterr().err
    assert "ZeroDivisionError: by zero" in printed
    assert printed.splitlines()[-1].startswith("Error: that is a defect of the director")


def test_bad_address_is_refused_before_anything_is_asked(capsys):
    assert run(["envoys", "--director", "nowhere"]) == 1

    assert "HOST:PORT" in capsys.readouterr().err


def test_director_that_does_not_answer_is_an_error_that_names_its_address(capsys):
    assert run(["envoys", "--director", "127.0.0.1:1", "--patience", "0"]) == 1

    printed = capsys.readouterr().err
    assert "127.0.0.1:1" in printed
    assert len(printed.splitlines()) == 1


def test_environment_says_whom_to_ask(monkeypatch, capsys):
    monkeypatch.setenv("DIRECTOR_ADDRESS", "127.0.0.1:2")
    monkeypatch.setenv("DIRECTOR_PATIENCE", "0")

    assert run(["envoys"]) == 1

    assert "127.0.0.1:2" in capsys.readouterr().err


def test_missing_certificate_is_named(tmp_path, capsys):
    files = [f"--{name}={tmp_path / name}" for name in ("root-certificate", "certificate", "private-key")]

    assert run(["envoys", *files]) == 1

    assert "the root certificate" in capsys.readouterr().err
