"""Everything that an operator can set: defaults, then the director's YAML file, then DIRECTOR_* in the environment."""

from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from director.errors import InvalidArgument

MEBIBYTE = 1 << 20


def seconds(written: object) -> object:
    """Turn a text that is a number into the number: in the environment everything is text."""
    with suppress(ValueError):
        return float(written) if isinstance(written, str) else written
    return written


Shape = tuple[int, ...]
Length = Annotated[timedelta, BeforeValidator(seconds)]


class Settings(BaseModel):
    """The director's settings, frozen; lengths of time are numbers of seconds or ISO 8601 durations."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    database: str = Field("sqlite:///director.db", description="Database URL.")
    listen_host: str = Field("127.0.0.1", description="Address to listen on.")
    listen_port: int = Field(50051, ge=0, le=65535, description="Port to listen on; 0 picks a free one.")
    sample_shape: Shape | None = Field(
        None, description="Shape of one sample that every shard must have; any if unset."
    )
    target_shape: Shape | None = Field(
        None, description="Shape of one target that every shard must have; any if unset."
    )
    envoy_health_check_period: Length = Field(
        timedelta(seconds=60), gt=timedelta(0), description="How often envoys send heartbeats."
    )
    install_requirements: bool = Field(
        False,
        description="Accepted for OpenFL's files; only `false` is allowed.",
    )
    root_certificate: Path | None = Field(None, description="CA certificates that clients' are checked against (PEM).")
    certificate: Path | None = Field(None, description="The director's certificate chain (PEM).")
    private_key: Path | None = Field(None, description="The director's private key (PEM).")
    insecure: bool = Field(False, description="Listen without TLS on other addresses than loopback.")
    operators: tuple[str, ...] = Field(
        (), description="Users who see every experiment, may approve and reject, and retire and restore envoys."
    )
    max_running_experiments: int = Field(16, ge=1, description="Experiments in progress at once in the federation.")
    max_running_per_user: int = Field(16, ge=1, description="Experiments in progress at once of one owner.")
    review_deadline: Length = Field(
        timedelta(hours=1), gt=timedelta(0), description="How long a review callback may take to answer."
    )
    lease: Length = Field(
        timedelta(seconds=10),
        ge=timedelta(seconds=1),
        description="How long a director may be silent before others take over its experiments.",
    )
    poll: Length = Field(
        timedelta(seconds=5),
        gt=timedelta(0),
        description="How often each loop checks the database when no wakeup arrives.",
    )
    long_poll: Length = Field(
        timedelta(seconds=25),
        gt=timedelta(0),
        le=timedelta(seconds=30),
        description="How long a waiting call may wait before it is answered empty.",
    )
    chunk_bytes: int = Field(
        MEBIBYTE,
        ge=4096,
        le=4 * MEBIBYTE,
        multiple_of=16,
        description="Length of the chunks in which bytes are stored.",
    )
    memory_bytes: int = Field(
        256 * 1000 * 1000, ge=16 * MEBIBYTE, description="Bytes of tensors that the process holds at once, at most."
    )
    max_archive_bytes: int = Field(1 << 30, ge=1, description="Largest workspace archive.")
    max_model_bytes: int = Field(1 << 40, ge=1, description="Largest model.")

    keep_models_every: int = Field(
        1, ge=1, description="Keep the models of every so many rounds; the first, the best and the last stay anyway."
    )
    history_retention: Length | None = Field(
        None,
        ge=timedelta(0),
        description="How long the metrics, events and rounds of a removed experiment are kept; for ever if unset.",
    )
    presence_retention: Length = Field(
        timedelta(days=365),
        ge=timedelta(0),
        description="How long the envoys' uptime history, and directors that have ended, are kept.",
    )

    disk_reserve_bytes: int = Field(
        256 * MEBIBYTE,
        ge=0,
        description="On SQLite: minimum free disk space. Below it, uploads are refused and deadlines pause.",
    )
    database_size_limit_bytes: int | None = Field(
        None,
        ge=1,
        description="On PostgreSQL: maximum database size. Above it, uploads are refused; unlimited if unset.",
    )

    def refuse_installing(self) -> None:
        """Refuse the one setting of OpenFL's files that the director does not follow.

        Raises:
            InvalidArgument: requirements are to be installed.
        """
        if self.install_requirements:
            raise InvalidArgument("install_requirements must be false: the director runs no code of others")

    @property
    def tick(self) -> timedelta:
        """How often service time is stored: a third of the lease."""
        return self.lease / 3


class Environment(BaseSettings, Settings):
    """Settings as they are found: the environment before the file."""

    model_config = SettingsConfigDict(env_prefix="DIRECTOR_", frozen=True, extra="forbid")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Let the environment win over the file."""
        return env_settings, init_settings


def load_settings(file: Path | None = None, **given: Any) -> Settings:
    """Read the settings once. What is given, from the command line, wins over the environment, and that over the file.

    Raises:
        InvalidArgument: the file cannot be read, or a setting is wrong; the text names it.
    """
    values = read_file(file) if file is not None else {}
    try:
        found = Environment(**values).model_dump(exclude_unset=True)
        return Settings(**(found | {name: value for name, value in given.items() if value is not None}))
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg'].lower()}" for each in error.errors())
        raise InvalidArgument(f"settings: {problems}") from error
    except SettingsError as error:
        raise InvalidArgument(f'settings: {error}; a list is written like ["ann", "bob"] there') from error


def read_file(file: Path) -> dict[str, Any]:
    """Read the `settings` of a director's YAML file."""
    try:
        document = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InvalidArgument(f"the settings file {file} cannot be read: {str(error).splitlines()[0]}") from error
    settings = document.get("settings") if isinstance(document, dict) else None
    if not isinstance(settings, dict):
        raise InvalidArgument(f"the settings file {file} has no mapping named `settings`")
    return settings
