"""The workspace archive as the director sees it: a safe zip file with a plan in it. None of it is ever run here."""

import asyncio
import tempfile
from collections.abc import Hashable
from typing import IO, Any

import yaml

from director.domain import archives, plan
from director.domain.archives import PLAN
from director.domain.plan import Plan
from director.errors import InvalidPlan
from director.services.runtime import Runtime
from director.store import contents
from director.store.stash import Blob


async def read_plan(runtime: Runtime, archive: Blob) -> Plan:
    """Check an archive in the stash and return its plan.

    Raises:
        InvalidArchive: it is not a zip file, not a safe one, or holds no plan.
        InvalidPlan: the plan cannot be run.
    """
    return plan.parse(parse_yaml(await read_plan_text(runtime, archive)))


async def plan_of_file(file: IO[bytes]) -> Plan:
    """Check an archive in a file and return its plan, as `read_plan` does."""
    return plan.parse(parse_yaml(await asyncio.to_thread(extract_plan, file)))


async def read_plan_text(runtime: Runtime, archive: Blob) -> str:
    """Check an archive and return the text of its plan; it is copied to a temporary file, never into memory."""
    with tempfile.TemporaryFile(prefix="director-archive-") as file:
        async for _number, data in contents.chunks(runtime.db, archive):
            await asyncio.to_thread(file.write, data)
        return await asyncio.to_thread(extract_plan, file)


def extract_plan(file: IO[bytes]) -> str:
    """Check an archive and return the text of its plan."""
    with archives.open_checked(file) as archive:
        content = archives.read_plan(archive)
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise InvalidPlan(f"{PLAN} is not UTF-8 text: {error}") from error


class PlanLoader(yaml.SafeLoader):
    """Reads plain YAML: no aliases, which can blow up a small file, and no key twice."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Refuse aliases."""
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise InvalidPlan(f"{PLAN}: line {event.start_mark.line + 1} uses an alias; write the value out")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Refuse a key that occurs twice."""
        seen: set[Any] = set()
        for key_node, _value in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise InvalidPlan(f"{PLAN}: line {key_node.start_mark.line + 1}: the key {key!r} is not a string")
            if key in seen:
                raise InvalidPlan(f"{PLAN}: line {key_node.start_mark.line + 1}: the key {key!r} occurs twice")
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


def parse_yaml(text: str) -> Any:
    """Parse a plan's text.

    Raises:
        InvalidPlan: it is not YAML, or uses aliases, or holds a key twice.
    """
    try:
        return yaml.load(text, PlanLoader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise InvalidPlan(f"{PLAN} is not YAML: {' '.join(str(error).split())}") from error
