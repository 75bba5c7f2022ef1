"""What the wire consists of: every message with its fields, every enumeration, every method, by name and number.

`golden/fields.json` records it. A recorded entry stays as it is for ever: another version of the director, or a client
in another language, relies on it. New entries are added with `python -m tests.wire.record_fields`.
"""

import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor, MethodDescriptor

from tests.wire.golden import FILES, FOLDER

Path = tuple[str, ...]
Entries = Mapping[Path, Any]
"""Each entry's place in the table (kind, name, number or method) and what it is."""

RECORD = FOLDER / "fields.json"
HOW = "record new entries with `python -m tests.wire.record_fields` and commit tests/wire/golden/fields.json"
TYPES = {
    number: name.removeprefix("TYPE_").lower()
    for name, number in vars(FieldDescriptor).items()
    if name.startswith("TYPE_")
}


def table() -> dict[str, Any]:
    """Return the wire as the generated code has it."""
    messages = [each for file in FILES for each in with_nested(file.DESCRIPTOR.message_types_by_name.values())]
    enums = [each for file in FILES for each in file.DESCRIPTOR.enum_types_by_name.values()]
    enums += [each for message in messages for each in message.enum_types]
    services = [each for file in FILES for each in file.DESCRIPTOR.services_by_name.values()]
    return {
        "messages": {
            each.full_name: {str(field.number): described(field) for field in each.fields} for each in messages
        },
        "enums": {each.full_name: numbered(each) for each in enums},
        "services": {each.full_name: {method.name: signature(method) for method in each.methods} for each in services},
    }


def with_nested(messages: Any) -> Iterator[Descriptor]:
    """Yield messages and the messages inside them."""
    for message in messages:
        yield message
        yield from with_nested(message.nested_types)


def described(field: FieldDescriptor) -> dict[str, Any]:
    """Return what a peer relies on of a field."""
    kind = field.message_type or field.enum_type
    group = field.containing_oneof
    synthetic = group is not None and group.name == f"_{field.name}"  # how protobuf says `optional`
    return {
        "name": field.name,
        "type": kind.full_name if kind is not None else TYPES[field.type],
        "label": "repeated" if field.is_repeated else "optional" if synthetic else "single",
        "oneof": group.name if group is not None and not synthetic else None,
    }


def numbered(enum: EnumDescriptor) -> dict[str, str]:
    """Return the names of an enumeration by number."""
    return {str(value.number): value.name for value in enum.values}


def signature(method: MethodDescriptor) -> dict[str, Any]:
    """Return what a method takes and answers, and which of both are streams."""
    return {
        "takes": method.input_type.full_name,
        "takes_stream": method.client_streaming,
        "answers": method.output_type.full_name,
        "answers_stream": method.server_streaming,
    }


def recorded() -> dict[str, Any]:
    """Return the wire as it was recorded."""
    found: dict[str, Any] = json.loads(RECORD.read_text())
    return found


def entries(wire: Mapping[str, Any]) -> Entries:
    """Return the entries of a table one by one; a message is an entry too, even without fields."""
    found: dict[Path, Any] = {}
    for kind, things in wire.items():
        for name, parts in things.items():
            found[kind, name] = {}
            found |= {(kind, name, part): what for part, what in parts.items()}
    return found


def broken(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Say which recorded entries are gone or are something else now."""
    found, present = [], entries(now)
    for place, what in entries(before).items():
        if place not in present:
            found.append(f"{' '.join(place)} is gone; it was {what}")
        elif present[place] != what:
            found.append(f"{' '.join(place)} is {present[place]}; it was {what}")
    return found


def unrecorded(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Say which entries are not recorded yet."""
    return [f"{' '.join(place)} is new; {HOW}" for place in entries(now).keys() - entries(before).keys()]


def main() -> int:
    """Record the new entries; refuse to, if a recorded one has changed."""
    now = table()
    if RECORD.exists() and (faults := broken(recorded(), now)):
        print("\n".join(faults), file=sys.stderr)
        return 1
    RECORD.write_text(json.dumps(now, indent=1, sort_keys=True) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
