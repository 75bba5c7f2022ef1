"""Lengths of time as people write them: a number of seconds, or "90s", "30m", "24h", "2d"."""

import re
from datetime import timedelta

LONGEST = timedelta(days=3650)
WRITTEN = re.compile(r"(\d{1,9}(?:\.\d{1,6})?) ?([smhd])", re.ASCII)
UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def parse(written: object) -> timedelta:
    """Read a length of time, from 0 up to ten years.

    Raises:
        ValueError: it is not a length of time, or not in this range.
    """
    match written:
        case bool():
            raise ValueError("a truth value is not a length of time")
        case int() | float() if 0 <= written <= LONGEST.total_seconds():
            return timedelta(seconds=written)
        case str() if found := WRITTEN.fullmatch(written):
            length = timedelta(**{UNITS[found[2]]: float(found[1])})
            if length <= LONGEST:
                return length
    raise ValueError("not a length of time, or a negative one, or longer than ten years")
