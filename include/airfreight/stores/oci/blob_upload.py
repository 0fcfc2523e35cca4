"""One blob on its way into a registry: in chunks, or whole.

    POST   …/blobs/uploads/                                   202  Location: where the upload is
    PATCH  location   Content-Range: 0-16777215               202  Location, Range: 0-16777215       chunks
    GET    location                                           204  Range: what the registry has      after a broken one
    PATCH  location   all bytes, without Content-Range        202                                    whole
    PUT    location?digest=sha256:…                           201                                    the blob is there
    DELETE location                                           204                                    dropped

Source: opencontainers/distribution-spec, spec.md (v1.1), "Pushing blobs". What registries make of it:

- distribution 2.x (and what is built on it) ignores Content-Range, and forgets an upload of which it has another number
  of bytes than its own signed location says: after a chunk that broke half-way the blob begins again. 3.x tells how far
  it is and goes on (registry/handlers/blobupload.go, v2.8.2 and v3.0.0).
- Google's Artifact Registry takes no chunks (kitops-ml/kitops#777): then all goes as one body, in as many appends as
  before, and what breaks it loses all of it.
- A proxy that limits bodies (Cloudflare: 100 MB) answers 413, or cuts the connection: then bodies get smaller.
"""

from __future__ import annotations

from collections.abc import Sequence

import httpx2

from airfreight.errors import AirfreightError, TemporaryError
from airfreight.retry import LostError
from airfreight.stores.oci.answers import Answer
from airfreight.stores.oci.whole_body import Buffer, Bytes, WholeBody
from airfreight.stores.oci.wire import CONNECT_TIMEOUT, Wire

MIB = 1024 * 1024
LEAST_BODY = MIB  # bytes; a registry that refuses this refuses all
# A registry may move or hash a blob of many gigabytes before it answers; storage in S3 copies it in parts.
FINISH_TIMEOUT = httpx2.Timeout(900.0, connect=CONNECT_TIMEOUT)  # seconds
CHUNK_REFUSED = {400, 405, 411, 415, 416, 501}
PATCH_EXPECTED = {201, 202, 204, 404, 413, *CHUNK_REFUSED}


class BlobUpload:
    """One blob on its way into a registry, its bytes appended in order. Used by one thread at a time.

    Two ways, chosen by what the registry takes; whoever appends sees the difference in `resumable` alone:

        chunks   each `append` is one PATCH with Content-Range, and is in the registry when it returns
        whole    one PATCH carries all appends one after the other; what breaks it loses all of them

    Made by `Repository.begin_upload` and `Repository.resume_upload`.
    """

    def __init__(self, wire: Wire, size: int, location: str, least_chunk: int = 1) -> None:
        self._wire = wire
        self._size = size
        self._location = location
        self._least_chunk = least_chunk
        self._offset = 0
        self._doubtful = False  # whether a request broke, so that the registry must be asked how far it is
        self._pipe: WholeBody | None = None
        self._finished = False
        self._action = f"push to {wire.image.repository}"

    @classmethod
    def begin(cls, wire: Wire, size: int) -> BlobUpload:
        """See `Repository.begin_upload`."""
        upload = cls(wire, size, "")
        upload._begin()
        return upload

    @classmethod
    def resume(cls, wire: Wire, location: str, size: int) -> BlobUpload:
        """See `Repository.resume_upload`."""
        upload = cls(wire, size, location)
        upload.sync()
        return upload

    @property
    def location(self) -> str:
        """What `Repository.resume_upload` wants; changes with every `append`. Holds no secret."""
        return self._location

    @property
    def offset(self) -> int:
        """Bytes that were taken: in chunks, those the registry has."""
        return self._offset

    @property
    def size(self) -> int:
        """Bytes of the whole blob, as announced."""
        return self._size

    @property
    def resumable(self) -> bool:
        """Whether another process can go on from `offset` with `location`: true unless the registry refuses chunks."""
        return self._wire.shared.takes_chunks

    @property
    def least_chunk(self) -> int:
        """Bytes that every `append` but the last must have at least (OCI-Chunk-Min-Length); 1 where nothing is said."""
        return self._least_chunk

    def append(self, data: Buffer | Sequence[Buffer], at: int) -> None:
        """Take the next bytes, of one buffer or of several, which are sent as one. The memory is the caller's again
        when this returns.

        After a TemporaryError the same bytes may be appended again: the registry is then asked first how much of them
        arrived. A registry that limits bodies (413) is given smaller ones from then on.

        Args:
            at: byte of the blob where `data` begins; what the registry has already is skipped.
        Raises:
            LostError: the registry forgot the upload, has fewer bytes than `at`, or a whole body broke: begin again.
            TemporaryError: not taken now.
            RequestError: refused.
        """
        whole = Bytes([data] if isinstance(data, bytes | bytearray | memoryview) else data)
        end = at + len(whole)
        if end > self._size:
            raise ValueError(f"{end} bytes are more than the {self._size} that were announced")
        if self._doubtful:
            self.sync()
        if self._offset < at:
            raise self._lost(f"it has {self._offset} bytes of a layer where {at} were sent")
        while self._offset < end:
            start = self._offset - at
            if self._wire.shared.takes_chunks:
                self._append_chunk(whole.part(start, start + self._limit(len(whole) - start)))
            else:
                self._append_whole(whole.part(start, len(whole)))

    def sync(self) -> int:
        """Ask the registry how many bytes it has, and return it: `offset` from now on.

        Raises:
            LostError: it no longer knows this upload, or takes no chunks.
        """
        if not self._wire.shared.takes_chunks:
            raise self._lost("it takes a layer only whole, and the connection broke")
        answer = self._wire.ask(
            "GET", self._location, self._wire.push, self._action, {200, 202, 204, 400, 404, 405, 416}
        )
        if answer.status >= 400:
            raise self._lost("it no longer knows an upload that was begun")
        reached = _reached(answer)
        if reached is None or reached > self._size:
            raise self._lost("it does not tell how much of a layer it has")
        self._moved(answer)
        self._offset, self._doubtful = reached, False
        return reached

    def finish(self, digest: str) -> None:
        """Make the blob visible under its digest, which the registry compares. Safe to repeat, also when the first try
        succeeded unnoticed.

        Raises:
            IntegrityError: the registry computed another digest.
            LostError: as `append`.
        """
        if self._finished:
            return
        if self._offset != self._size:
            raise ValueError(f"{self._offset} of {self._size} bytes were appended")
        if self._doubtful:
            if self._is_there(digest):
                self._finished = True
                return
            self.sync()
            if self._offset != self._size:
                raise self._lost(f"it has {self._offset} of {self._size} bytes of a layer")
        self._end_whole()
        url = httpx2.URL(self._location).copy_merge_params({"digest": digest})
        self._doubtful = True
        answer = self._wire.ask(
            "PUT", str(url), self._wire.push, self._action, {200, 201, 202, 204, 404},
            headers={"Content-Type": "application/octet-stream"}, content=b"", timeout=FINISH_TIMEOUT,
        )  # fmt: skip
        if answer.status == 404 and not self._is_there(digest):
            raise self._lost("it no longer knows an upload that was begun")
        self._finished = True

    def send(self, data: bytes, digest: str) -> None:
        """Send a small blob in one PUT and make it visible; instead of `append` and `finish`.

        Raises:
            IntegrityError: the registry computed another digest.
            TemporaryError: also where the registry forgot the upload; it is begun again with the next try.
        """
        url = httpx2.URL(self._location).copy_merge_params({"digest": digest})
        answer = self._wire.ask(
            "PUT", str(url), self._wire.push, self._action, {200, 201, 202, 204, 404},
            headers={"Content-Type": "application/octet-stream"}, content=data, timeout=FINISH_TIMEOUT,
        )  # fmt: skip
        if answer.status == 404:  # the repository is right: it took the POST
            raise TemporaryError(self._lost("it no longer knows an upload that was begun").message)
        self._finished = True

    def release(self) -> None:
        """Stop here. What a registry that takes chunks has of it is kept there. Never raises."""
        pipe, self._pipe = self._pipe, None
        if pipe is not None:
            pipe.abandon()

    def cancel(self) -> None:
        """Drop the upload, as far as possible. Never raises, also after a `finish`."""
        self.release()
        if self._finished:
            return
        try:
            self._wire.ask("DELETE", self._location, self._wire.push, self._action, {200, 202, 204, 400, 404, 405})
        except AirfreightError:
            return

    def _begin(self) -> None:
        answer = self._wire.ask(
            "POST", self._wire.url("blobs/uploads/"), self._wire.push, self._action, {202}, content=b""
        )
        if not answer.headers.get("Location"):
            raise self._lost("it begins an upload without saying where")
        least = answer.headers.get("OCI-Chunk-Min-Length", "")
        self._least_chunk = max(1, int(least)) if least.isdigit() else 1
        self._moved(answer)
        self._offset, self._doubtful = 0, False

    def _limit(self, length: int) -> int:
        limit = self._wire.shared.body_limit
        return length if limit is None else max(1, min(length, max(limit, self._least_chunk)))

    def _append_chunk(self, part: Bytes) -> None:
        first, last = self._offset, self._offset + len(part) - 1
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(len(part))}
        if len(part) < self._size:  # all of a blob in one body is no chunk, and is taken by every registry
            headers["Content-Range"] = f"{first}-{last}"
        self._doubtful = True
        try:
            answer = self._wire.ask(
                "PATCH", self._location, self._wire.push, self._action, PATCH_EXPECTED,
                headers=headers, content=part.pieces,
            )  # fmt: skip
        except TemporaryError as error:
            if isinstance(error.__cause__, httpx2.TransportError) and len(part) > self._wire.shared.largest_body:
                # Perhaps a proxy that cuts what is too large for it instead of saying so.
                self._wire.shared.limit_bodies(max(LEAST_BODY, len(part) // 2))
            raise
        if answer.status == 413:
            self._smaller(answer, len(part))
        elif answer.status == 404:
            raise self._lost("it no longer knows an upload that was begun")
        elif answer.status in CHUNK_REFUSED:
            self._chunk_refused(answer, "Content-Range" in headers)
        else:
            self._moved(answer)
            reached = _reached(answer)
            self._offset = last + 1 if reached is None or last == 0 else reached
            self._doubtful = False
            self._wire.shared.largest_body = max(self._wire.shared.largest_body, len(part))
            if not first < self._offset <= last + 1:
                raise self._lost(f"it has {self._offset} bytes of a layer where {last + 1} were sent")

    def _smaller(self, answer: Answer, length: int) -> None:
        if length <= max(LEAST_BODY, self._least_chunk):
            raise self._wire.asked.refused(answer, self._action)
        self._wire.shared.limit_bodies(max(LEAST_BODY, length // 2))
        self.sync()

    def _chunk_refused(self, answer: Answer, chunked: bool) -> None:
        """Find out whether chunks are refused, or only this one."""
        offset = self._offset
        if not chunked:
            raise self._wire.asked.refused(answer, self._action)
        if answer.status == 416 and self.sync() != offset:
            return  # another number of bytes is there than we thought; the caller's loop goes on from there
        self._wire.shared.takes_chunks = False
        if offset:
            raise self._lost("it takes a layer only whole")
        self.cancel()
        self._begin()

    def _append_whole(self, part: Bytes) -> None:
        if self._pipe is None:
            if self._offset:
                raise self._lost("it takes a layer only whole, and the connection broke")
            self._wire.ensure_fresh(self._wire.push, self._action)
            self._pipe = WholeBody(self._wire, self._location, self._size, self._action, self._whole_timeout())
        try:
            self._pipe.put(part)
        except TemporaryError as error:
            self._pipe = None
            self._doubtful = True
            raise LostError(error.message) from error
        self._offset += len(part)

    def _whole_timeout(self) -> httpx2.Timeout:
        """Bytes that stop on their way are noticed as ever; the answer may take as long as that to a finished blob."""
        timeout = self._wire.shared.client.timeout
        return httpx2.Timeout(connect=timeout.connect, read=FINISH_TIMEOUT.read, write=timeout.write, pool=timeout.pool)

    def _end_whole(self) -> None:
        """Wait for the answer to a whole body; what broke only now, its last bytes still on their way, is lost too."""
        pipe, self._pipe = self._pipe, None
        if pipe is None:
            return
        try:
            self._moved(pipe.end())
        except TemporaryError as error:
            self._doubtful = True
            raise LostError(error.message) from error

    def _is_there(self, digest: str) -> bool:
        answer = self._wire.ask("HEAD", self._wire.url(f"blobs/{digest}"), self._wire.pull, self._action, {200, 404})
        return answer.status == 200

    def _moved(self, answer: Answer) -> None:
        location = answer.headers.get("Location")
        if location:
            self._location = self._wire.absolute(location, answer.url)

    def _lost(self, why: str) -> LostError:
        return LostError(
            f"The registry {self._wire.image.registry} lost an upload to {self._wire.image.repository} ({why}): "
            "this layer is sent again from its beginning."
        )


def _reached(answer: Answer) -> int | None:
    """Return how many bytes a registry says it has, None where it says nothing.

    `Range: 0-1023` is 1,024 bytes, and `0-0` is one byte or none (spec.md has no word for none; distribution says 0-0
    for it): an upload is never left at one byte here, so it is none.
    """
    first, _, last = answer.headers.get("Range", "").removeprefix("bytes=").partition("-")
    if first != "0" or not last.isdigit():
        return None
    return int(last) + 1 if int(last) else 0
