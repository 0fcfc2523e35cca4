"""From one registry to another: image manifests, indexes and blobs unchanged, so that the digest stays.

    GET  manifests/{tag or digest}       at the source: the image, or an index and its images, each verified
    HEAD blobs/{digest}                  at the destination, for each blob: is it there? Also where the image is: a
                                         registry may lose a blob and keep what names it. Those missing, does it take?
    POST blobs/uploads/?mount=           on the same registry: taken over without a byte
    GET  blobs/{digest} -> PATCH, PUT    else it is streamed, and hashed on its way
    PUT  manifests/{digest}              the images, then the index, last and under its tag

Blobs go four at a time, the largest first; memory is twice `ROOM`, whatever their sizes and number. A blob whose bytes
are not its digest's is never finished. Resuming is a matter of HEAD: what a killed run sent whole is not sent again.
Within a run a broken read goes on at its byte, and so does a broken upload, as far as the registry allows (see
`blob_upload`).

Signatures, attestations and other images that refer to this one (referrers) lie beside it, and are not copied.
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import cycle

from airfreight.errors import IntegrityError, RequestError
from airfreight.prechecks import Limits, human_size
from airfreight.progress import Progress
from airfreight.reading import FILES_AT_ONCE, for_each
from airfreight.retry import Attempts, LostError, Patience
from airfreight.stores.oci.blob_upload import BlobUpload
from airfreight.stores.oci.contents import Blob, Contents, Reading, contents
from airfreight.stores.oci.reference import OciImage
from airfreight.stores.oci.registry import Document, Repository

MIB = 1024 * 1024
# Bytes of one append, divided among the blobs under way. distribution writes each chunk through to its disk before it
# answers: one stream in chunks of 16 MiB took 2.2 times as long as in one body, in chunks of 64 MiB 1.35 times; three
# streams at once 1.15 times, for one waits while another sends (256 MiB each, docker-registry 2.8.2, loopback).
ROOM = 64 * MIB


@dataclass(frozen=True)
class Mirrored:
    """What was done.

    Attributes:
        image: at the destination, by digest, which is that of the source.
        tag: it was given there, None without one.
        blobs: how many it has.
        size_bytes: of all of them.
        moved_bytes: read from the source in this run, and sent.
        reused_blobs: that were there.
        mounted_blobs: that the registry took over from the source's repository.
    """

    image: OciImage
    tag: str | None
    blobs: int
    size_bytes: int
    moved_bytes: int
    reused_blobs: int
    mounted_blobs: int


def mirror(
    source: Repository,
    reference: str,
    target: Repository,
    tag: str | None = None,
    patience: Patience | None = None,
    progress: Progress | None = None,
) -> Mirrored:
    """Copy an image, or an index with all its images, from one repository to another.

    Args:
        reference: tag or digest at the source; a tag is looked up once.
        tag: to give it at the destination; None gives none.
        patience: how often what broke is tried again, and the deadline of the whole.
        progress: told of the bytes; None prints nothing.
    Raises:
        RequestError: there is no such image, a right is missing, or a blob is larger than the destination takes.
        IntegrityError: a blob or document is not what its digest says; nothing was published.
        TemporaryError: what did not heal in time.
    """
    patience, progress = patience or Patience(), progress or Progress(write=lambda _: None)
    found = contents(source, reference, patience)
    run = _Run(source, target, progress)
    missing = lacking(found, target, patience)
    check_sizes(missing, source, target)
    there = [blob for blob in found.blobs if blob not in missing]
    run.divide(missing)
    progress.start(len(found.blobs), found.size, len(there), sum(blob.size for blob in there), called="blobs")
    for_each(sorted(missing, key=lambda blob: (-blob.size, blob.digest)), run.carry, patience, progress)
    for document in found.documents[:-1]:
        patience.call(partial(target.put_document, document))
    patience.call(lambda: target.put_document(found.top, tag))
    _check(patience.call(lambda: target.resolve(tag or found.top.digest)), found.top, target)
    progress.finish()
    return Mirrored(
        image=target.image.at(found.top.digest),
        tag=tag,
        blobs=len(found.blobs),
        size_bytes=found.size,
        moved_bytes=run.moved,
        reused_blobs=len(there),
        mounted_blobs=run.mounted,
    )


def lacking(found: Contents, target: Repository, patience: Patience) -> list[Blob]:
    """Return the blobs that a repository has not; one HEAD for each.

    Raises:
        RequestError, TemporaryError: it cannot be asked.
    """
    sizes = for_each(
        found.blobs,
        lambda blob, patience: patience.call(lambda: target.blob_size(blob.digest)),
        patience,
        Progress(write=lambda _: None),
    )
    return [blob for blob, size in zip(found.blobs, sizes, strict=True) if size != blob.size]


def lists_all(found: Contents, target: Repository, patience: Patience) -> bool:
    """Whether a repository has every image manifest and index; one HEAD for each.

    Raises:
        RequestError, TemporaryError: it cannot be asked.
    """
    return all(patience.call(partial(target.describe, document.digest)) for document in found.documents)


class _Run:
    """The blobs of one mirror."""

    def __init__(self, source: Repository, target: Repository, progress: Progress) -> None:
        self._source = source
        self._target = target
        self._progress = progress
        self._same = source.image.registry == target.image.registry
        self._lock = threading.Lock()
        self.part = ROOM
        self.moved = 0
        self.mounted = 0

    def divide(self, missing: Sequence[Blob]) -> None:
        """Choose the size of parts: memory is the same whether one blob is large or many are."""
        large = sum(1 for blob in missing if blob.size > ROOM // FILES_AT_ONCE)
        self.part = ROOM // min(FILES_AT_ONCE, max(1, large))

    def carry(self, blob: Blob, patience: Patience) -> None:
        """Bring one blob over."""
        if self._same and patience.call(lambda: self._target.mount(blob.digest, self._source.image.repository)):
            with self._lock:
                self.mounted += 1
            self._progress.present(blob.size)
            self._progress.file_done()
            return
        attempts = Attempts(patience)
        while True:
            upload = patience.call(lambda: self._target.begin_upload(blob.size))
            reading = Reading()
            try:
                self._stream(blob, upload, reading, patience)
            except LostError as error:
                upload.cancel()
                self._progress.present(-reading.count)
                attempts.wait_after(error)
            except BaseException:
                upload.cancel()
                raise
            else:
                self._progress.file_done()
                return

    def _stream(self, blob: Blob, upload: BlobUpload, reading: Reading, patience: Patience) -> None:
        """Send a blob, hashing it on its way, and finish it only if it is what its digest says."""
        chunks = reading.chunks(self._source, blob, patience, self._took)
        sent = 0
        size = max(1, min(blob.size, max(self.part, upload.least_chunk)))
        with closing(_ahead(_parts(chunks, size))) as parts:
            for part in parts:
                patience.call(partial(upload.append, part, sent))
                sent += len(part)
        if reading.digest != blob.digest:
            raise IntegrityError(
                f"{self._source.image} has a blob {blob.digest} whose bytes have {reading.digest}; nothing was "
                "published: that registry, or a mirror or proxy before it, is damaged; have it repaired."
            )
        patience.call(lambda: upload.finish(blob.digest))

    def _took(self, count: int) -> None:
        self._progress.moved(count)
        with self._lock:
            self.moved += count


def _parts(chunks: Generator[bytes, None, None], size: int) -> Generator[memoryview, None, None]:
    """Yield the bytes in parts of `size`, the last one perhaps shorter, in the memory of the part before the last."""
    rooms = cycle((bytearray(size), bytearray(size)))
    room, filled = next(rooms), 0
    with closing(chunks):
        for chunk in chunks:
            view = memoryview(chunk)
            while view:
                count = min(len(view), size - filled)
                room[filled : filled + count] = view[:count]
                filled += count
                view = view[count:]
                if filled == size:
                    yield memoryview(room)
                    room, filled = next(rooms), 0
    if filled:
        yield memoryview(room)[:filled]


def _ahead(parts: Generator[memoryview, None, None]) -> Generator[memoryview, None, None]:
    """Yield the same parts, reading the next one while the caller is at the one before."""
    with ThreadPoolExecutor(1, thread_name_prefix="airfreight-mirror") as pool:
        try:
            following = pool.submit(next, parts, None)
            while (part := following.result()) is not None:
                following = pool.submit(next, parts, None)
                yield part
        finally:
            pool.shutdown(wait=True)
            parts.close()


def check_sizes(blobs: Sequence[Blob], source: Repository, target: Repository) -> None:
    """Refuse what the destination would refuse after all of it was sent.

    Raises:
        RequestError: one of these blobs is larger than the destination is known to take.
    """
    limits = Limits.of_registry(target.image.registry)
    largest = max(blobs, key=lambda blob: blob.size, default=None)
    if limits.layer_bytes is not None and largest is not None and largest.size > limits.layer_bytes:
        raise RequestError(
            f"{source.image} has a layer {largest.digest[:19]}… of {human_size(largest.size)} and {limits.kind} takes "
            f"{human_size(limits.layer_bytes)}: build the image again with smaller layers, or choose another "
            "destination."
        )


def _check(found: str, top: Document, target: Repository) -> None:
    if found != top.digest:
        raise IntegrityError(
            f"{target.image} has {found} under the tag where {top.digest} was put: somebody else writes there; choose "
            "another tag."
        )
