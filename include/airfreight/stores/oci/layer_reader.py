"""One layer of an image, read file by file.

    plain tar   where its files are is read by ranges, from header to header; so are the files themselves
    gzip        can only be read from its start; all of it is, once, and on the way the state of the decompression is
                kept at a few places (at most `POINTS`, 50 KiB each), where the reading of a file begins later
    zstd        refused

Which one it is, its first bytes decide, not its media type: some tools name it wrongly. A layer that is read in whole
is verified, and the files in it are hashed in the same pass.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import threading
import zlib
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass

from airfreight.errors import IntegrityError, RequestError
from airfreight.stores.oci.registry import Repository
from airfreight.stores.oci.tar_scan import BLOCK, CrowdedError, Member, Scanner, TarError

MIB = 1024 * 1024
WINDOW = 64 * 1024  # bytes fetched at a header: a small file behind it comes along
PIECE = MIB  # bytes of decompressed content at once
POINTS = 128
SPACING = 16 * MIB  # decompressed bytes between two points, twice as many whenever there are too many points
GZIP_MAGIC, ZSTD_MAGIC = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
# OCI says tar, tar+gzip, tar+zstd; Docker diff.tar, diff.tar.gzip
_LAYER = re.compile(r"\.tar(?:[.+](?:gzip|zstd))?$")


@dataclass(frozen=True)
class Layer:
    """What an image says of one of its layers.

    Attributes:
        media_type: perhaps wrong.
        digest: `sha256:<64 hex>`.
        size: bytes, compressed where it is.
        annotations: of the layer's descriptor.
    """

    media_type: str
    digest: str
    size: int
    annotations: Mapping[str, str]

    @property
    def is_archive(self) -> bool:
        """Whether it is a layer of files at all, and not something else that lies in a registry."""
        return _LAYER.search(self.media_type) is not None


@dataclass(frozen=True)
class _Point:
    """A place in a gzip stream where decompression can begin."""

    compressed: int
    plain: int
    state: zlib._Decompress


class LayerReader:
    """One layer. Methods may be called from any thread; what a broken read has found so far is kept.

    Args:
        whole: read a plain tar in whole too, which verifies it and hashes its files.
    """

    def __init__(self, repository: Repository, layer: Layer, whole: bool) -> None:
        self.layer = layer
        self._repository = repository
        self._where = f"layer {layer.digest} of {repository.image.name}"
        self._whole = whole
        self._lock = threading.Lock()
        self._scanner: Scanner | None = None
        self._done = False
        self._inflater: _Inflater | None = None
        self._position = 0  # in the blob, of a reading in whole
        self._hash = hashlib.sha256()

    def members(self) -> list[Member]:
        """Return what the layer holds, in order.

        Raises:
            RequestError: it is no tar, or packed with zstd, or not there, or holds more than any model.
            IntegrityError: it was read in whole and has another digest.
            TemporaryError: it cannot be read now; what was read so far is kept for the next call.
        """
        with self._lock:
            try:
                if not self._done:
                    self._scan()
            except CrowdedError as error:
                raise RequestError(
                    f"The {self._where} {error}: build the image again, with nothing but the model in it."
                ) from error
            except (TarError, zlib.error) as error:
                raise RequestError(
                    f"The {self._where} is no archive that can be read ({error}): build the image again, with layers "
                    "of plain tar."
                ) from error
            self._done = True
            return self._scanner.members if self._scanner is not None else []

    def read(self, member: Member, offset: int) -> Generator[bytes, None, None]:
        """Yield the content of a file from `offset`, in chunks of 1 byte to 1 MiB.

        Raises:
            RequestError, IntegrityError, TemporaryError: as `Repository.open_blob`.
        """
        start, end = member.offset + offset, member.offset + member.size
        if start >= end:
            return
        if self._inflater is None:
            with closing(self._open(start, end)) as chunks:
                yield from chunks
            return
        point = self._inflater.before(start)
        inflater = _Inflater(point)
        with closing(self._open(point.compressed)) as chunks, contextlib.suppress(zlib.error):
            for chunk in chunks:
                for piece in inflater.feed(chunk):
                    position = inflater.plain - len(piece)
                    wanted = piece[max(0, start - position) : max(0, end - position)]
                    if wanted:
                        yield wanted
                    if inflater.plain >= end:
                        return
        raise IntegrityError(f"The {self._where} ends before its files do: build the image again.")

    def _open(self, offset: int, end: int | None = None) -> Generator[bytes, None, None]:
        return self._repository.open_blob(self.layer.digest, self.layer.size, offset, end)

    def _scan(self) -> None:
        if self._scanner is None:
            head = b""
            with closing(self._open(0, min(len(ZSTD_MAGIC), self.layer.size))) as chunks:
                for chunk in chunks:
                    head += chunk
            if head.startswith(ZSTD_MAGIC) or self.layer.media_type.endswith("zstd"):
                raise RequestError(
                    f"The {self._where} is packed with zstd, which is not read here nor by KServe's oci+fetch: build "
                    "the image again, with layers of plain tar (or gzip)."
                )
            if head.startswith(GZIP_MAGIC):
                self._inflater = _Inflater()
            self._scanner = Scanner(digests=self._whole or self._inflater is not None)
        if self._whole or self._inflater is not None:
            self._scan_whole(self._scanner)
        else:
            self._scan_headers(self._scanner)

    def _scan_headers(self, scanner: Scanner) -> None:
        while not scanner.ended and scanner.wanted + BLOCK <= self.layer.size:
            start = scanner.wanted
            with closing(self._open(start, min(start + WINDOW, self.layer.size))) as chunks:
                scanner.skip(start)
                for chunk in chunks:
                    scanner.feed(chunk)
        if not scanner.ended and scanner.wanted > self.layer.size:
            raise TarError("it ends in the midst of a file")

    def _scan_whole(self, scanner: Scanner) -> None:
        with closing(self._open(self._position)) as chunks:
            for chunk in chunks:
                self._hash.update(chunk)
                if self._inflater is None:
                    scanner.feed(chunk)
                else:
                    for piece in self._inflater.feed(chunk):
                        scanner.feed(piece)
                self._position += len(chunk)
        scanner.check_end()
        found = f"sha256:{self._hash.hexdigest()}"
        if found != self.layer.digest:
            raise IntegrityError(
                f"The {self._where} has digest {found}; nothing was published: the registry, or a mirror or proxy "
                "before it, is damaged; have it repaired."
            )


class _Inflater:
    """A gzip stream, of one or many members, fed in order.

    Attributes:
        plain: bytes that came out so far.
    """

    def __init__(self, start: _Point | None = None) -> None:
        self.plain = 0 if start is None else start.plain
        self._compressed = 0 if start is None else start.compressed
        self._state = _fresh() if start is None else start.state.copy()
        self._points = [_Point(0, 0, _fresh())] if start is None else None
        self._spacing = SPACING
        self._between = False  # whether one member ended and no other began

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield what comes out of the next bytes, 1 MiB at a time.

        Raises:
            zlib.error: this is no gzip.
        """
        self._compressed += len(data)
        data = self._unpadded(data)
        piece = b""
        while data or len(piece) == PIECE:  # a full piece: more may be left inside
            piece = self._state.decompress(data, PIECE)
            self.plain += len(piece)
            if piece:
                yield piece
            if self._state.eof:
                data, self._state, self._between = self._state.unused_data, _fresh(), True
                data = self._unpadded(data)
            else:
                data = self._state.unconsumed_tail
        self._mark()

    def _unpadded(self, data: bytes) -> bytes:
        """Drop the zeros that some tools put behind a member."""
        if self._between:
            data = data.lstrip(b"\0")
            self._between = not data
        return data

    def before(self, position: int) -> _Point:
        """Return the last point at or before a byte of what comes out."""
        points = self._points or []
        return [point for point in points if point.plain <= position][-1]

    def _mark(self) -> None:
        points = self._points
        if points is None or self.plain - points[-1].plain < self._spacing:
            return
        points.append(_Point(self._compressed, self.plain, self._state.copy()))
        if len(points) > POINTS:
            self._spacing *= 2
            del points[1::2]


def _fresh() -> zlib._Decompress:
    return zlib.decompressobj(wbits=31)  # 16 + 15: gzip with any window
