"""Column types that mean the same on both engines."""

import math
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import JSON, BigInteger, DateTime, Dialect, Double, Integer, LargeBinary, String
from sqlalchemy.dialects import postgresql
from sqlalchemy.types import TypeDecorator, TypeEngine

Key = BigInteger().with_variant(Integer(), "sqlite")
"""A 64-bit key; SQLite only numbers rows by itself where the type is spelt INTEGER."""

Name = String(255)
Digest = String(64)
Document = JSON().with_variant(postgresql.JSONB(), "postgresql")


class StoredPlan(TypeDecorator[Any]):
    """A plan as it is stored: a document, which may be damaged.

    SQLite stores a document as text. A text that is not a document comes back as it is: with the usual reader one
    damaged row would fail the whole query, and a plan that cannot be read concerns its own experiment only.
    """

    impl = JSON
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Pick the engine's own type."""
        return dialect.type_descriptor(postgresql.JSONB() if dialect.name == "postgresql" else JSON())

    def result_processor(self, dialect: Dialect, coltype: object) -> Any:
        """Return what reads a value; PostgreSQL's driver does so itself."""
        read: Any = super().result_processor(dialect, coltype)
        if read is None:
            return None

        def process(value: Any) -> Any:
            try:
                return read(value)
            except ValueError:
                return value

        return process


class Instant(TypeDecorator[datetime]):
    """An aware instant in UTC.

    SQLite stores it as text without a zone, which sorts and which others read as a timestamp.
    """

    impl = DateTime
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Pick the engine's own type."""
        if dialect.name == "postgresql":
            return dialect.type_descriptor(postgresql.TIMESTAMP(timezone=True))
        return dialect.type_descriptor(DateTime())

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Store in UTC; an instant without a zone is a defect."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("an instant needs a time zone")
        value = value.astimezone(UTC)
        return value if dialect.name == "postgresql" else value.replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return it aware."""
        if value is None:
            return None
        return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)


class Real(TypeDecorator[float]):
    """A float64 in which NaN is stored as NULL, since SQLite has no NaN and averages in SQL should pass it over."""

    impl = Double
    cache_ok = True

    def process_bind_param(self, value: float | None, dialect: Dialect) -> float | None:
        """Store NaN as NULL."""
        return None if value is None or math.isnan(value) else float(value)


class State(TypeDecorator[StrEnum]):
    """A state, stored as its name; the table's CHECK lists those that exist."""

    impl = String(16)
    cache_ok = True

    def __init__(self, states: type[StrEnum]) -> None:
        """Take the enumeration that the column's values come from."""
        super().__init__(16)
        self.states = states

    def process_bind_param(self, value: StrEnum | str | None, dialect: Dialect) -> str | None:
        """Store the name."""
        return None if value is None else str(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> StrEnum | None:
        """Return the enumeration's member."""
        return None if value is None else self.states(value)


Bytes = LargeBinary
