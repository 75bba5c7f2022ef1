import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from director.errors import InvalidArgument
from director.settings import Settings, load_settings


@pytest.fixture(autouse=True)
def nothing_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("DIRECTOR_"):
            monkeypatch.delenv(name)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "director.yaml"


def refusal(file: Path | None = None, **given: Any) -> str:
    with pytest.raises(InvalidArgument) as refused:
        load_settings(file, **given)
    return str(refused.value)


def test_defaults_serve_one_machine():
    settings = load_settings()

    assert settings == Settings()
    assert (settings.database, settings.listen_host, settings.listen_port) == (
        "sqlite:///director.db",
        "127.0.0.1",
        50051,
    )
    assert (settings.sample_shape, settings.insecure, settings.operators) == (None, False, ())
    assert settings.tick == settings.lease / 3


def test_file_is_read(file: Path):
    file.write_text(
        """
        settings:
          listen_host: 0.0.0.0
          listen_port: 50052
          sample_shape: ['28', '28', '1']
          target_shape: []
          envoy_health_check_period: 5
          review_deadline: PT2H
          operators: [ann, bob]
        """
    )

    settings = load_settings(file)

    assert (settings.listen_host, settings.listen_port) == ("0.0.0.0", 50052)
    assert (settings.sample_shape, settings.target_shape) == ((28, 28, 1), ())
    assert settings.envoy_health_check_period == timedelta(seconds=5)
    assert settings.review_deadline == timedelta(hours=2)
    assert settings.operators == ("ann", "bob")


def test_environment_wins_over_the_file(file: Path, monkeypatch: pytest.MonkeyPatch):
    file.write_text("settings: {listen_port: 1, lease: 20}")
    monkeypatch.setenv("DIRECTOR_LISTEN_PORT", "2")
    monkeypatch.setenv("DIRECTOR_OPERATORS", '["ann"]')

    settings = load_settings(file)

    assert (settings.listen_port, settings.lease, settings.operators) == (2, timedelta(seconds=20), ("ann",))


@pytest.mark.parametrize(("written", "length"), [("2", 2), ("0.5", 0.5), ("PT1M", 60)])
def test_length_of_time_in_the_environment_is_a_number_of_seconds_or_iso_8601(
    monkeypatch: pytest.MonkeyPatch, written: str, length: float
):
    monkeypatch.setenv("DIRECTOR_POLL", written)

    assert load_settings().poll == timedelta(seconds=length)


def test_what_is_given_wins_over_everything(file: Path, monkeypatch: pytest.MonkeyPatch):
    file.write_text("settings: {listen_port: 1}")
    monkeypatch.setenv("DIRECTOR_LISTEN_PORT", "2")

    assert load_settings(file, listen_port=3).listen_port == 3
    assert load_settings(file, listen_port=None).listen_port == 2


def test_file_is_wrong_even_where_the_environment_is_right(file: Path, monkeypatch: pytest.MonkeyPatch):
    file.write_text("settings: {lease: 0.5}")

    assert "lease" in refusal(file)


def test_settings_do_not_change():
    with pytest.raises(ValueError, match="frozen"):
        load_settings().listen_port = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("listen_port", 70000),
        ("listen_port", "many"),
        ("sample_shape", ["wide"]),
        ("sample_shape", 28),
        ("envoy_health_check_period", 0),
        ("envoy_health_check_period", "often"),
        ("operators", "ann"),
        ("insecure", "perhaps"),
        ("max_running_experiments", 0),
        ("lease", 0.5),
        ("poll", -1),
        ("long_poll", 31),
        ("chunk_bytes", 4097),
        ("chunk_bytes", 16),
        ("memory_bytes", 1000),
        ("max_model_bytes", 0),
        ("database", 5),
    ],
)
def test_wrong_value_is_refused_by_the_name_of_its_setting(name: str, value: Any):
    assert refusal(**{name: value}).startswith(f"settings: {name}")


def test_unknown_setting_is_refused_by_its_name(file: Path):
    file.write_text("settings: {listen_prot: 1}")

    assert refusal(file) == "settings: listen_prot: extra inputs are not permitted"
    assert refusal(epochs=3).startswith("settings: epochs")


def test_wrong_value_in_the_environment_is_named_too(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DIRECTOR_LISTEN_PORT", "many")

    assert refusal().startswith("settings: listen_port")


@pytest.mark.parametrize("name", ["sample_shape", "operators"])
def test_list_in_the_environment_that_is_none_is_named_too(monkeypatch: pytest.MonkeyPatch, name: str):
    monkeypatch.setenv(f"DIRECTOR_{name.upper()}", "28,28")

    assert name in refusal()


def test_variables_of_other_commands_are_none_of_its_business(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DIRECTOR_ADDRESS", "localhost:50051")

    assert load_settings() == Settings()


def test_every_problem_is_named_at_once():
    text = refusal(listen_port=-1, lease=0)

    assert "listen_port" in text
    assert "lease" in text


@pytest.mark.parametrize(
    ("content", "wrong"),
    [
        (b"settings: [", "cannot be read"),
        (b"\xff\xfe\x00", "cannot be read"),
        (b"listen_port: 1", "no mapping named `settings`"),
        (b"settings: 5", "no mapping named `settings`"),
        (b"", "no mapping named `settings`"),
    ],
)
def test_file_that_holds_no_settings_is_named(file: Path, content: bytes, wrong: str):
    file.write_bytes(content)

    assert wrong in refusal(file)
    assert str(file) in refusal(file)


def test_file_that_is_not_there_is_named(file: Path):
    assert f"{file} cannot be read" in refusal(file)


def test_every_setting_is_described():
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []
