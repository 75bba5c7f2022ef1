"""Each message of the wire with every field set, as bytes that must never change.

A change of them breaks every peer of an older version. A new message or field changes them on purpose: record them
again with `python -m tests.wire.golden` and read the difference before you commit it.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from director.v1 import common_pb2, envoys_pb2, experiments_pb2, federation_pb2, rounds_pb2

FOLDER = Path(__file__).with_name("golden")
FILES = common_pb2, envoys_pb2, experiments_pb2, federation_pb2, rounds_pb2
F = FieldDescriptor


def descriptors() -> dict[str, Descriptor]:
    """Return every message type by name."""
    return {
        descriptor.full_name: descriptor
        for file in FILES
        for descriptor in file.DESCRIPTOR.message_types_by_name.values()
    }


def variants(descriptor: Descriptor) -> Iterator[Message]:
    """Yield a message with every field set; of a oneof, each member in turn."""
    groups = [group for group in descriptor.oneofs if len(group.fields) > 1]
    if not groups:
        yield filled(descriptor, chosen={})
    for group in groups:
        for member in group.fields:
            yield filled(descriptor, chosen={group.name: member.name})


def filled(descriptor: Descriptor, *, chosen: dict[str, str]) -> Message:
    """Return a message with every field set to a value that its number decides."""
    message = GetMessageClass(descriptor)()
    for field in descriptor.fields:
        group = field.containing_oneof
        if group is not None and len(group.fields) > 1 and chosen.get(group.name, group.fields[0].name) != field.name:
            continue
        put(message, field)
    return message


def put(message: Message, field: FieldDescriptor) -> None:
    """Set one field."""
    target: Any = getattr(message, field.name)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        target["accuracy"] = 0.5 + field.number
    elif field.message_type is not None:
        one = target.add() if field.is_repeated else target
        one.CopyFrom(filled(field.message_type, chosen={}))
        if not field.is_repeated:
            one.SetInParent()
    elif field.is_repeated:
        target.extend([value(field, 1), value(field, 2)])
    else:
        setattr(message, field.name, value(field, 1))


def value(field: FieldDescriptor, index: int) -> Any:
    """Return a value for a field, other than its default."""
    number = 10 * field.number + index
    match field.cpp_type:
        case F.CPPTYPE_STRING:
            return f"{field.name}-{index}".encode() if field.type == F.TYPE_BYTES else f"{field.name}-{index}-ä"
        case F.CPPTYPE_BOOL:
            return True
        case F.CPPTYPE_DOUBLE | F.CPPTYPE_FLOAT:
            return number + 0.25
        case F.CPPTYPE_ENUM:
            return field.enum_type.values[-1].number
        case _:
            return number


def golden() -> dict[str, bytes]:
    """Return the bytes of every message, by the name of their file."""
    return {
        f"{name}.{index}.bin": message.SerializeToString(deterministic=True)
        for name, descriptor in descriptors().items()
        for index, message in enumerate(variants(descriptor))
    }


def main() -> None:
    """Record them again."""
    FOLDER.mkdir(exist_ok=True)
    for path in FOLDER.glob("*.bin"):
        path.unlink()
    for name, data in golden().items():
        (FOLDER / name).write_bytes(data)


if __name__ == "__main__":
    main()
