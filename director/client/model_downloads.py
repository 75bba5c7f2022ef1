"""Models from a director: into arrays, or into a `.safetensors` file."""

from collections.abc import Iterator
from pathlib import Path

from director.client.directors import Directors, Services, Stream
from director.domain.tensors import Manifest
from director.domain.types import Array
from director.errors import Corrupt, InvalidArgument
from director.v1 import common_pb2
from director.wire import codec
from director.wire.chunks import Download, FileDownload


def parts_of(directors: Directors, uid: str, which: str | int, download: Download) -> Iterator[common_pb2.DownloadPart]:
    """Yield what is still missing of a model, over as many streams as it takes.

    The header says which number is meant by *best* or *last*; the streams after the first ask for that one. A manifest
    that has arrived is not asked for again.
    """

    def open_stream(services: Services) -> Stream[common_pb2.DownloadPart]:
        request = codec.write_model(which if download.header is None else download.header.model_number)
        request.experiment_uid = uid
        request.first_index = download.next_index
        request.held_manifest_sha256 = download.held_manifest_sha256
        return services.experiments.DownloadModel(request)

    return directors.stream(open_stream)


def fetch(directors: Directors, uid: str, which: str | int) -> dict[str, Array]:
    """Return a model's arrays, writable and in memory.

    Raises:
        InvalidArgument: it is not "best", "last", "initial" or a number.
        ModelNotFound: no such number, or not kept.
        ModelNotReady: no round has closed yet.
        Corrupt: the bytes do not match their digest.
    """
    download, payload = Download(), bytearray()
    for part in parts_of(directors, uid, which, download):
        payload += download.take(part)
    manifest, _ = whole(download)
    return manifest.arrays(payload)


def save(directors: Directors, uid: str, which: str | int, target: Path) -> int:
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
        for part in parts_of(directors, uid, which, file.download):
            file.take(part)
        _, number = whole(file.download)
        file.keep()
    return number


def whole(download: Download) -> tuple[Manifest, int]:
    """Return the manifest and the number of a model that has arrived.

    Raises:
        Corrupt: the director ended the stream before its end.
    """
    if not download.complete or download.header is None or download.manifest is None:
        raise Corrupt(f"the download ended before chunk {download.next_index}; download it again")
    return download.manifest, download.header.model_number
