"""Models from a director: into arrays, or into a `.safetensors` file."""

from collections.abc import Iterator
from pathlib import Path

from director.client.directors import Directors, Stream
from director.domain.types import Array
from director.errors import Corrupt, InvalidArgument
from director.v1 import common_pb2
from director.v1 import experiments_pb2 as pb
from director.v1.experiments_pb2_grpc import ExperimentServiceStub
from director.wire.chunks import Download, FileDownload, manifest_of

CHOICES = {"best": pb.MODEL_CHOICE_BEST, "last": pb.MODEL_CHOICE_LAST, "initial": pb.MODEL_CHOICE_INITIAL}
"""Models by what they are rather than by their number."""


def request_for(name: str, which: str | int, *, first_index: int) -> pb.DownloadModelRequest:
    """Ask for a model: "best", "last", "initial", or a number.

    Raises:
        InvalidArgument: it is none of these.
    """
    if isinstance(which, int):
        return pb.DownloadModelRequest(name=name, number=which, first_index=first_index)
    if which not in CHOICES:
        raise InvalidArgument(f"a model is {', '.join(map(repr, CHOICES))} or a number, not {which!r}")
    return pb.DownloadModelRequest(name=name, choice=CHOICES[which], first_index=first_index)


def parts_of(
    directors: Directors, name: str, which: str | int, download: Download
) -> Iterator[common_pb2.DownloadPart]:
    """Yield what is still missing of a model, over as many streams as it takes.

    The header says which number is meant by *best* or *last*; the streams after the first ask for that one.
    """

    def open_stream(stub: ExperimentServiceStub) -> Stream[common_pb2.DownloadPart]:
        meant = which if download.header is None else download.header.model_number
        return stub.DownloadModel(request_for(name, meant, first_index=download.next_index))

    return directors.stream(open_stream)


def fetch(directors: Directors, name: str, which: str | int) -> dict[str, Array]:
    """Return a model's arrays, writable and in memory.

    Raises:
        ModelNotFound: no such number, or not kept.
        ModelNotReady: no round has closed yet.
        Corrupt: the bytes do not match their digest.
    """
    download, payload = Download(), bytearray()
    for part in parts_of(directors, name, which, download):
        payload += download.take(part)
    return manifest_of(whole(download).manifest).arrays(payload)


def save(directors: Directors, name: str, which: str | int, target: Path) -> int:
    """Write a model to a `.safetensors` file, which appears when it is whole and verified; return the model's number.

    Raises:
        InvalidArgument: the file cannot be written.
        As of `fetch`.
    """
    try:
        file = FileDownload(target, as_safetensors=True)
    except OSError as error:
        raise InvalidArgument(f"{str(target)!r} cannot be written: {error.strerror or error}") from error
    with file:
        for part in parts_of(directors, name, which, file.download):
            file.take(part)
        header = whole(file.download)
        file.keep()
    return header.model_number


def whole(download: Download) -> common_pb2.DownloadHeader:
    """Return the header of a download that is complete.

    Raises:
        Corrupt: the director ended the stream before its end.
    """
    if download.header is None or not download.complete:
        raise Corrupt(f"the download ended before chunk {download.next_index}; download it anew")
    return download.header
