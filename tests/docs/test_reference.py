"""The reference pages name everything that there is, nothing else, and the defaults that it really has."""

import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from director import errors
from director.cli.main import director
from director.domain import plan as plans
from director.domain.aggregation import RULES
from director.domain.plan import Plan
from director.domain.steps import quorum
from director.errors import DirectorError, InvalidPlan
from director.services.plan_reading import parse_yaml
from director.settings import Settings, load_settings
from director.wire.statuses import code_of
from tests.docs.pages import blocks, page, quoted, rows, sections

SETTINGS = page("reference/settings.md")
COMMANDS = sections(page("reference/commands.md"), level=3)
PLAN = sections(page("reference/plan.md"))
MINIMAL: Mapping[str, Any] = {
    "rounds": 1,
    "tasks": [
        {"name": "train", "kind": "train", "function": "work:train"},
        {"name": "validate", "kind": "validate", "function": "work:validate"},
    ],
}
COLLABORATORS = 10


# Settings


def documented_settings() -> list[list[str]]:
    return [row for row in rows(SETTINGS) if len(row) == 4]


def test_every_setting_is_documented_with_its_variable_and_no_other() -> None:
    found = [(quoted(name), quoted(variable)) for name, variable, *_ in documented_settings()]

    assert sorted(found) == sorted((name, f"DIRECTOR_{name.upper()}") for name in Settings.model_fields)


@pytest.mark.parametrize(("name", "default"), [(quoted(row[0]), row[2]) for row in documented_settings()])
def test_default_of_a_setting_is_the_one_documented(name: str, default: str) -> None:
    written = None if default == "unset" else yaml.safe_load(quoted(default))

    assert getattr(Settings.model_validate({name: written}), name) == getattr(Settings(), name)


def test_examples_of_settings_are_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, environment = blocks(SETTINGS)
    (tmp_path / "director.yaml").write_text(file.code)
    from_file = load_settings(tmp_path / "director.yaml")
    for line in environment.code.splitlines():
        monkeypatch.setenv(*shlex.split(line.removeprefix("export "))[0].split("=", 1))
    from_environment = load_settings()

    for name in ("database", "sample_shape", "operators"):
        assert getattr(from_environment, name) == getattr(from_file, name) != getattr(Settings(), name)


def test_variables_for_clients_are_those_of_their_options() -> None:
    found = {quoted(row[0]): quoted(row[1]) for row in rows(sections(SETTINGS)["For commands that call a director"])}

    assert found == {
        str(option.envvar): option.opts[0]
        for _, command in commands(director)
        for option in command.params
        if option.envvar
    }


# Errors


def test_every_error_is_documented_with_its_status_and_no_other() -> None:
    found = {quoted(error): quoted(status) for error, status, *_ in rows(page("reference/errors.md"))}

    assert found == {each.__name__: code_of(each).name for each in family(DirectorError)}


def test_tree_of_errors_is_the_one_documented() -> None:
    [tree] = blocks(page("reference/errors.md"))

    depths = [(len(line) - len(line.lstrip("│├└─ ")), line.lstrip("│├└─ ")) for line in tree.code.splitlines()]
    assert depths == [
        (4 * (len(each.__mro__) - len(DirectorError.__mro__)), each.__name__) for each in family(DirectorError)
    ]


def family(kind: type[DirectorError]) -> Iterator[type[DirectorError]]:
    """Yield an error and those derived from it, as far as `director.errors` has them, in its order."""
    yield kind
    for each in kind.__subclasses__():
        if vars(errors).get(each.__name__) is each:
            yield from family(each)


# Commands


def commands(command: click.Command, name: str = "director") -> Iterator[tuple[str, click.Command]]:
    """Yield what can be run, by its name."""
    if not isinstance(command, click.Group):
        yield name, command
        return
    context = click.Context(command)
    for each in command.list_commands(context):
        below = command.get_command(context, each)
        assert below is not None
        yield from commands(below, f"{name} {each}")


def usage(name: str, command: click.Command) -> str:
    """Return a command's name with its arguments."""
    context = click.Context(command)
    arguments = [each.make_metavar(context) for each in command.params if isinstance(each, click.Argument)]
    return " ".join([name, *arguments])


RUNNABLE = {usage(name, command): command for name, command in commands(director)}


def documented_options(section: str) -> dict[str, str]:
    """Return the options of a command's section, those it shares included, each with what is said of it."""
    shared = [text for heading, text in COMMANDS.items() if f"](#{heading.lower()})" in section]
    return {quoted(option).split()[0]: meaning for text in [section, *shared] for option, meaning in rows(text)}


def test_every_command_is_documented_and_no_other() -> None:
    assert sorted(heading for heading in COMMANDS if heading.startswith("director ")) == sorted(RUNNABLE)


@pytest.mark.parametrize("name", RUNNABLE)
def test_every_option_of_a_command_is_documented_and_no_other(name: str) -> None:
    options = {each.opts[0]: each for each in RUNNABLE[name].params if isinstance(each, click.Option)}
    documented = documented_options(COMMANDS[name])

    assert documented.keys() == options.keys()
    for option, meaning in documented.items():
        assert ("needed" in meaning) == options[option].required, option
        assert f"`{options[option].envvar}`" in meaning or options[option].envvar is None, option


# The plan


def keys_of(path: str) -> list[str]:
    """Return the keys below a key of the plan, as the refusal of another kind of value lists them."""
    wrong: Any = "x" if not path else {**MINIMAL, path.removesuffix("[]"): ["x"] if path.endswith("[]") else "x"}
    with pytest.raises(InvalidPlan) as refusal:
        plans.parse(wrong)
    return re.findall(r"\w+", str(refusal.value).partition("with the keys ")[2])


def test_every_key_of_the_plan_is_documented_and_no_other() -> None:
    found = [quoted(key) for key, *_ in rows(PLAN["Keys"])]

    inner = [f"{path}.{key}" for path in ("tasks[]", "aggregation", "best") for key in keys_of(path)]
    assert sorted(found) == sorted(keys_of("") + inner)


@pytest.mark.parametrize(
    ("key", "default"), [(quoted(key), quoted(default)) for key, default, _ in rows(PLAN["Keys"]) if "`" in default]
)
def test_default_of_a_key_of_the_plan_is_the_one_documented(key: str, default: str) -> None:
    outer, _, inner = key.partition(".")
    value = yaml.safe_load(default)
    match outer, inner:
        case "tasks[]", _:
            written = {**MINIMAL, "tasks": [{**task, inner: value} for task in MINIMAL["tasks"]]}
        case _, "":
            written = {**MINIMAL, outer: value}
        case _:
            written = {**MINIMAL, outer: {inner: value}}

    assert plans.parse(written) == plans.parse(MINIMAL)


def test_keys_that_are_needed_are_documented_so() -> None:
    for key, default, _ in rows(PLAN["Keys"]):
        if default == "needed" and not key.startswith("`aggregation"):
            outer, _, inner = quoted(key).partition(".")
            first = {name: value for name, value in MINIMAL["tasks"][0].items() if name != inner}
            rest = {name: value for name, value in MINIMAL.items() if name != outer}
            with pytest.raises(InvalidPlan, match="missing"):
                plans.parse({**MINIMAL, "tasks": [first]} if inner else rest)


def test_every_aggregation_rule_is_documented_and_no_other() -> None:
    assert [quoted(rule) for rule, _ in rows(PLAN["Aggregation rules"])] == list(RULES)


def test_example_of_a_plan_can_be_run() -> None:
    [example] = blocks(page("reference/plan.md").partition("## Keys")[0])

    assert plans.parse(parse_yaml(example.code)).rounds == 10


def policies() -> dict[str, Plan]:
    """Return the plans of the policies that are described, by name."""
    found = {}
    for block in blocks(PLAN["Who is asked, and who counts"]):
        name = block.code.splitlines()[0].removeprefix("# ")
        found[name] = plans.parse({**MINIMAL, **yaml.safe_load(block.code)})
    return found


def test_policies_make_of_ten_collaborators_what_is_documented() -> None:
    documented = {name: tuple(numbers) for name, *numbers in rows(PLAN["Who is asked, and who counts"])}

    found = {}
    for name, plan in policies().items():
        needs = quorum(plan, COLLABORATORS)
        found[name] = (str(needs.minimum), str(needs.asked), str(needs.target or "none"))
    assert found == documented
