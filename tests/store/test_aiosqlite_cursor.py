"""What our cursor needs of two libraries, and they do not promise to keep, is listed and is there."""

import re
import tomllib
from pathlib import Path

from sqlalchemy.ext.asyncio import create_async_engine

from director.store.engine import aiosqlite_cursor
from director.store.engine.aiosqlite_cursor import PRIVATE

OWN = {"_outcome", "_run"}


async def test_every_private_attribute_that_is_needed_is_there(tmp_path: Path) -> None:
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'file.db'}")
    async with engine.connect() as connection:
        adapted = (await connection.get_raw_connection()).dbapi_connection
        cursor = await connection.run_sync(lambda _: adapted.cursor())
        theirs = {type(each): each for each in (adapted, adapted.driver_connection, cursor)}

        missing = [(owner, name) for owner, names in PRIVATE for name in names if not hasattr(theirs[owner], name)]

        await cursor._async_soft_close()
    await engine.dispose()
    assert missing == []


def test_list_of_private_attributes_is_whole() -> None:
    source = Path(aiosqlite_cursor.__file__).read_text()

    used = {
        *re.findall(r"\.(_[a-z]\w*)", source),
        *re.findall(r"^    (?:async def )?(_[a-z]\w*)", source, re.MULTILINE),
    }

    assert used - OWN == {name for _, names in PRIVATE for name in names}


def test_versions_of_libraries_whose_private_attributes_are_needed_are_bounded() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]

    bounded = {re.split(r"\W", each)[0] for each in project["dependencies"] if "<" in each}

    assert {owner.__module__.split(".")[0] for owner, _ in PRIVATE} <= bounded
