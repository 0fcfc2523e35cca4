"""One layer on its way into a registry. Its files are the engine's `Upload`s, see `file_upload`.

The engine writes the files of a layer one after the other, in parts. What goes to the registry is the layer's archive:
headers before a file, its parts, zeros after it, in one blob upload. The engine's thread that reads hashes the file; a
thread of ours hashes the archive, while a third sends it, so the two sha256 passes over each byte run side by side.

    POST uploads/ ── location into the checkpoint ──┬─ PATCH ── at times: place and hash state into it ─┐
                                                    └───────────────────────────────────────────────────┘
                  ── PUT ?digest= ── digest into the notes ── checkpoint removed

The checkpoint (`airfreight.checkpoint`), one for each layer, tells

    upload_id  the upload's location
    parts      for each file begun, the bytes of it that are in the registry; of all but the last that is the whole file
    checksum   state of the archive's hash after them
    state      of the hash of the last of these files

A killed run has sent more than its checkpoint tells. A registry that keeps a broken chunk says how much it has;
what lies between is read and hashed again, and not sent. One that forgets the upload then (distribution before 3.0; see
`blob_upload`) gets that layer from its beginning. Between the last PATCH and the notes, the digest follows from the
hash state, so a layer that was finished unnoticed is found by one HEAD. Where the hash state cannot be had
(`airfreight.hashing`), or the registry takes no chunks, a layer that was killed begins again.

An upload of which nobody knows the location is left when a run dies between POST and the checkpoint. It holds no byte,
and registries drop such uploads by themselves (distribution: after a week).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from airfreight import hashing
from airfreight.checkpoint import Part
from airfreight.errors import AirfreightError, IntegrityError
from airfreight.leases import Claim
from airfreight.manifest import ManifestFile
from airfreight.retry import LostError
from airfreight.stores.oci.blob_upload import BlobUpload
from airfreight.stores.oci.layers import Layer
from airfreight.stores.oci.registry import Repository

MIB = 1024 * 1024
PART_SIZE = 16 * MIB  # two per layer under way are in memory, and one may be sent again after a kill
LAYERS_AT_ONCE = 4  # for which that size is meant; where fewer layers are large, their parts are larger
SMALL = 4 * MIB  # bytes of an archive that is kept in memory and sent whole
WRITE_EVERY = 0.5  # seconds between two checkpoints of a layer; what was sent since is only read again after a kill
_ANY_FILE = ManifestFile("layer.tar", 0, sha256="0" * 64)  # its digest is what is to be found out

_HASHERS = ThreadPoolExecutor(16, thread_name_prefix="airfreight-hash")  # threads are made as they are needed

Buffer = bytes | bytearray | memoryview
Placed = Callable[[Layer, str], object]
Look = Callable[[Layer], str | None]


def part_size_for(layers: Iterable[Layer]) -> int:
    """Return the bytes of a part: the fewer layers can be under way at once, the more each, in the same memory.

    A registry may sync its disk after every request (distribution 2.8 does: 16 MiB parts cost it 1.6 times the wall of
    64 MiB ones for one stream of 256 MiB, and nothing where several streams overlap).
    """
    large = sum(layer.size > PART_SIZE for layer in layers)
    return PART_SIZE * max(1, LAYERS_AT_ONCE // max(1, large))


def subject(layer: Layer) -> ManifestFile:
    """Return a layer as a checkpoint knows it: by its title, so that sentences about it are understood."""
    return ManifestFile(layer.title, sum(file.size for file in layer.files), sha256=layer.key)


class LayerUpload:
    """One layer on its way. Used by one thread at a time.

    Args:
        repository: where it goes.
        layer: what it holds.
        claim: its lease, which is ours; None for a small layer: all or nothing, it needs none, and of two runs that
            send it both send the same.
        part_size: bytes of a part, where no earlier run chose one; a multiple of 64.
        placed: told the digest of the layer when it is in the registry.
        look: tells the digest of the layer if it is in the registry by now: another run may have placed it between our
            first look and our lease.
        count: told the bytes that were sent there.
    Raises:
        RequestError, TemporaryError: as the registry and the checkpoints do.
    """

    def __init__(
        self,
        repository: Repository,
        layer: Layer,
        claim: Claim | None,
        part_size: int,
        placed: Placed,
        look: Look,
        count: Callable[[int], object],
    ) -> None:
        self.layer = layer
        self.part_size = part_size
        self.over = False  # placed, let go or dropped: nothing more is taken
        self._repository = repository
        self._claim = claim
        self._placed = placed
        self._count = count
        self._hash = hashing.fresh(_ANY_FILE)
        self._hashed = 0  # bytes of the archive that are in the hash
        self._pending = bytearray()  # hashed and not sent: the archive from `_hashed - len(_pending)` on
        self._begun: list[int] = []  # bytes of each file that were written, in this run or one before
        self._state: str | None = None
        self._upload: BlobUpload | None = None
        self._digest: str | None = None  # where the registry has the whole layer
        self._unwritten: dict[str, Any] | None = None  # what the checkpoint does not tell yet
        self._written = time.monotonic()
        try:
            if claim is not None and not self._is_there(claim, look) and not self._go_on(claim):
                self._start(claim)
        except BaseException:
            self.release()
            raise

    def begun(self, index: int) -> int:
        """Return how many bytes of a file were written, in this run or one before."""
        return self._begun[index] if index < len(self._begun) else 0

    def state(self, index: int) -> str | None:
        """Return the state of a file's hash after these bytes; its digest, where that is the whole file."""
        file, begun = self.layer.files[index], self.begun(index)
        if index < len(self._begun) and begun == file.size:
            return file.digest
        return self._state if begun else None

    def write(self, index: int, at: int, part: bytes | bytearray | memoryview, state: str | None) -> None:
        """Take the next bytes of a file; repeated after a failure, nothing is hashed or sent twice.

        Raises:
            HeldError, LostError, RequestError, TemporaryError: see `interfaces.Upload.write`.
        """
        span = self.layer.spans[index]
        last = at + len(part) == span.file.size
        buffers = (span.head if at == 0 else b"", part, span.tail if last else b"")
        start = span.start + at - len(buffers[0])
        end = start + sum(map(len, buffers))
        begun = [*(file.size for file in self.layer.files[:index]), at + len(part)]
        held = len(self._pending)
        if end < self.layer.size and held + end - start < self.part_size:
            self._update(buffers, start)
            for buffer in buffers:
                self._pending += buffer
            self._begun = begun
            return
        if self._upload is None:
            self._update(buffers, start)
            self._send_whole((self._pending, *buffers))
        else:
            with _meanwhile(lambda: self._update(buffers, start)):
                self._send(self._upload, (self._pending, *buffers), start - held)
            self._record(self._upload, begun, state)
        self._pending = bytearray()
        self._begun = begun

    def end(self, index: int) -> None:
        """Say that a file is whole and right; after the last one, place the layer. Safe to repeat.

        Raises:
            HeldError, LostError, RequestError, TemporaryError: see `interfaces.Upload.commit`.
        """
        file = self.layer.files[index]
        if file.size == 0 and index >= len(self._begun):
            self.write(index, 0, b"", file.digest)
        if index == len(self.layer.files) - 1 and not self.over:
            digest = self._digest or f"sha256:{self._hash.hexdigest()}"
            if self._upload is not None and self._digest is None:
                with _begun_again():
                    self._upload.finish(digest)
            self._digest = digest
            self._placed(self.layer, digest)
            if self._claim is not None:
                self._claim.done()
            self.over = True

    def release(self) -> None:
        """See `interfaces.Upload.release`."""
        self.over = True
        if self._upload is not None:
            self._upload.release()
        if self._claim is not None:
            with contextlib.suppress(AirfreightError):
                self._write_down()
            with contextlib.suppress(AirfreightError):
                self._claim.release()

    def abort(self) -> None:
        """See `interfaces.Upload.abort`."""
        self.over = True
        if self._claim is not None:
            with contextlib.suppress(AirfreightError):
                self._claim.drop(lambda: self._upload.cancel() if self._upload is not None else None)

    def _update(self, buffers: Sequence[Buffer], start: int) -> None:
        """Hash bytes of the archive that begin at `start`, unless they were hashed in a try that failed."""
        if self._hashed == start:
            for buffer in buffers:
                self._hash.update(memoryview(buffer) if isinstance(buffer, bytearray) else buffer)
                self._hashed += len(buffer)

    def _send_whole(self, buffers: Sequence[Buffer]) -> None:
        """Send a small layer, unless it is there."""
        whole = b"".join(buffers)
        if self._repository.blob_size(f"sha256:{self._hash.hexdigest()}") != len(whole):
            with _begun_again():
                self._repository.put_blob(whole)
            self._count(len(whole))

    def _send(self, upload: BlobUpload, buffers: Sequence[Buffer], start: int) -> None:
        """Send bytes of the archive, which begin at `start`; what the registry has already is left out there."""
        before = upload.offset
        upload.append(buffers, start)
        self._count(upload.offset - before)

    def _record(self, upload: BlobUpload, begun: Sequence[int], state: str | None) -> None:
        """Write down how far we are, for whoever goes on; not for each part, for the registry knows how far it is."""
        layer_state = self._hash.state()
        if not upload.resumable or layer_state is None:
            return
        self._unwritten = {
            "upload_id": upload.location,
            "part_size": self.part_size,
            "parts": tuple(Part("", count, "") for count in begun),
            "checksum": layer_state,
            "state": state,
        }
        if time.monotonic() - self._written >= WRITE_EVERY or self._hashed == self.layer.size:
            self._write_down()

    def _write_down(self) -> None:
        if self._claim is not None and self._unwritten is not None:
            self._claim.record(**self._unwritten)
            self._unwritten, self._written = None, time.monotonic()

    def _is_there(self, claim: Claim, look: Look) -> bool:
        """Find out whether there is nothing to do any more; then what a dead run began is dropped."""
        self._digest = look(self.layer)
        if self._digest is None:
            return False
        self._begun = [file.size for file in self.layer.files]
        if claim.checkpoint.upload_id and self._resumed(claim.checkpoint.upload_id, 0) and self._upload is not None:
            self._upload.cancel()
        return True

    def _go_on(self, claim: Claim) -> bool:
        """Adopt what the checkpoint tells of, if the registry confirms it."""
        found = claim.checkpoint
        if not found.upload_id:
            return False
        begun, position = [part.size for part in found.parts], 0
        if begun:
            span = self.layer.spans[len(begun) - 1]
            position = span.end if begun[-1] == span.file.size else span.start + begun[-1]
        hasher = hashing.resumed(_ANY_FILE, found.checksum, position)
        if hasher is None:
            return False
        if position == self.layer.size:
            digest = f"sha256:{hasher.hexdigest()}"
            self._digest = digest if self._repository.blob_size(digest) == self.layer.size else None
        if self._digest is None and not self._resumed(found.upload_id, position):
            return False
        self._hash, self._hashed, self._begun, self._state = hasher, position, begun, found.state
        self.part_size = found.part_size
        return True

    def _resumed(self, location: str, position: int) -> bool:
        try:
            upload = self._repository.resume_upload(location, self.layer.size)
        except LostError:
            return False
        if upload.offset < position:
            upload.cancel()
            return False
        self._upload = upload
        return True

    def _start(self, claim: Claim) -> None:
        upload = self._upload = self._repository.begin_upload(self.layer.size)
        self.part_size = max(self.part_size, -(-upload.least_chunk // MIB) * MIB if upload.least_chunk > 1 else 0)
        claim.record(upload_id=upload.location, part_size=self.part_size, parts=(), checksum="", state=None)


@contextlib.contextmanager
def _meanwhile(work: Callable[[], None]) -> Iterator[None]:
    """Do `work` in another thread while the caller does what is inside; both have ended after it."""
    future = _HASHERS.submit(work)
    try:
        yield
    finally:
        future.result()


@contextlib.contextmanager
def _begun_again() -> Iterator[None]:
    """Send a layer once more whose digest the registry sees otherwise: damaged on its way, or others wrote into it.

    Raises:
        LostError: instead of IntegrityError; nothing became visible, and it was right when it left here.
    """
    try:
        yield
    except IntegrityError as error:
        raise LostError(error.message) from error
