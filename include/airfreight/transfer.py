"""The engine: carry one model from a source to a store, verified, in bounded memory, and only what is missing.

It knows two small interfaces and nothing else. A `Source` tells its manifest and opens a file at a byte offset. A
`Store` is the place of one version of one model: it tells what it holds, takes a file in parts through an `Upload`, and
is sealed.

    manifest ── sealed already? ── what is held? ── access? ──┬─ file: read ─ hash ─ part ─ part ─ compare ─ commit ┐
                (then 0 bytes)                                ├─ file: ...                     (4 files at a time) ├─
                seal
                                                              └─ file: ...                                          ┘

Nothing of a file is visible before its size and digest matched the manifest, and the manifest is written last.
Failures that heal are retried here and nowhere else (`airfreight.retry`): a broken read goes on at its byte offset with
the state of the hash kept, a failed part is sent again. Memory: one part per file under way.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from threading import Event
from typing import Protocol

from airfreight.errors import IntegrityError, RequestError, TemporaryError
from airfreight.manifest import Manifest, ManifestFile
from airfreight.prechecks import check_publishable
from airfreight.progress import Progress
from airfreight.retry import Attempts, Patience

FILES_AT_ONCE = 4
# Real progress: a stream that got this far since its last failure may fail as often again. Less would let a server that
# cuts after every few bytes keep us for ever.
PROGRESS_BYTES = 8 * 1024 * 1024
TICK = 1.0  # seconds between looks at the progress


class Source(Protocol):
    """Where files come from."""

    def manifest(self) -> Manifest:
        """Return the manifest. Resolved once: the same object on every call, wherever a branch moves meanwhile.

        Raises:
            RequestError: there is no such model, or no access to it.
            TemporaryError: the source cannot be reached now.
        """
        ...

    def open(self, file: ManifestFile, offset: int = 0) -> Generator[bytes, None, None]:
        """Yield the bytes of one file from `offset` to its end, in order, in chunks of 1 byte to 8 MiB.

        Memory: one chunk. The caller may stop early and must close the generator. A normal end means that the source
        has no more bytes; a connection that broke before the end of the file is a `TemporaryError`.

        Args:
            file: an entry of this source's manifest.
            offset: first byte wanted; 0 <= offset <= file.size.
        Raises:
            RequestError: the file is gone or access is refused.
            IntegrityError: the source offers another number of bytes than the manifest says.
            TemporaryError: no byte for 60 s, a broken connection, 429 or 5xx.
        """
        ...


class Upload(Protocol):
    """One file on its way into a store. Used by one thread; ends with `commit` or `abort`."""

    @property
    def part_size(self) -> int:
        """Bytes of every part but the last, which may be shorter."""
        ...

    def write(self, part: bytearray) -> None:
        """Take the next part, and own it from here. After a `TemporaryError` the same part may be written again."""
        ...

    def commit(self) -> None:
        """Make the file visible, whole. Safe to repeat, also when the first try succeeded unnoticed."""
        ...

    def abort(self) -> None:
        """Drop what was written, as far as possible; never raises, also after a failed or finished `commit`."""
        ...


class Store(Protocol):
    """The place of one version of one model. Methods may be called from any thread and are safe to repeat.

    All raise RequestError (no such place, no right to it) and TemporaryError (cannot be reached now).
    """

    @property
    def artifact(self) -> str:
        """URI of this place."""
        ...

    def sealed(self) -> Manifest | None:
        """Return the manifest that was written last, or None: then nothing was delivered here."""
        ...

    def held(self, files: Sequence[ManifestFile]) -> frozenset[str]:
        """Return the paths of those files that are here whole, verified when they were written, and unchanged since."""
        ...

    def prepare(self, files: Sequence[ManifestFile]) -> None:
        """Prove that this place can be written, before any byte moves; clear what dead copies left of these files."""
        ...

    def begin(self, file: ManifestFile) -> Upload:
        """Start to take one file. Nothing of it is visible before `commit`."""
        ...

    def seal(self, manifest: Manifest) -> str:
        """Write the manifest, last, and return the artifact.

        Raises:
            RequestError: another manifest is here. Never overwritten, also when two copies end at the same moment.
        """
        ...


@dataclass(frozen=True)
class CopyResult:
    """What a copy did.

    Attributes:
        artifact: URI of the complete copy.
        manifest: its manifest.
        moved_bytes: bytes taken from the source.
        reused_files: files that were in the store already.
        seconds: wall time.
    """

    artifact: str
    manifest: Manifest
    moved_bytes: int
    reused_files: int
    seconds: float


def copy(
    source: Source,
    store: Store,
    progress: Progress | None = None,
    patience: Patience | None = None,
    files_at_once: int = FILES_AT_ONCE,
) -> CopyResult:
    """Make `store` a complete, verified copy of `source`'s manifest and seal it; what it already holds is not sent
    again.

    Args:
        progress: told what happens; None prints nothing.
        patience: how often failures that heal are tried again, and the deadline of the whole.
        files_at_once: files under way at the same moment; memory is one part for each.
    Raises:
        RequestError: the model is refused (`check_publishable`), the store holds another manifest, or access is
        missing.
        IntegrityError: a file is not what the manifest says; neither it nor a manifest became visible.
        TemporaryError: something that heals did not heal in time; files that were finished are kept for the next run.
    """
    progress = progress or Progress(write=lambda _: None)
    patience = replace(patience or Patience(), stop=Event(), on_retry=progress.retried)
    started = patience.clock()
    manifest = patience.call(source.manifest)
    check_publishable(manifest)
    sealed = patience.call(store.sealed)
    refuse_other(store.artifact, sealed, manifest)
    held = patience.call(lambda: store.held(manifest.files))
    missing = [file for file in manifest.files if file.path not in held]
    moved = sum(file.size for file in missing)
    progress.start(len(manifest.files), manifest.size, len(held), manifest.size - moved)
    if missing:
        patience.call(lambda: store.prepare(manifest.files))
        _send_all(_Carrier(source, store, manifest, progress, patience), missing, files_at_once)
    if sealed is None:
        patience.call(lambda: store.seal(manifest))
    progress.finish()
    return CopyResult(store.artifact, manifest, moved, len(held), patience.clock() - started)


def published(store: Store, manifest: Manifest) -> bool:
    """Whether a complete copy of exactly this manifest is in the store.

    Raises:
        RequestError: the store holds another manifest in this place, or access is missing.
    """
    sealed = store.sealed()
    refuse_other(store.artifact, sealed, manifest)
    return sealed is not None and len(store.held(manifest.files)) == len(manifest.files)


def refuse_other(artifact: str, sealed: Manifest | None, manifest: Manifest) -> None:
    """Refuse a version that already holds another manifest.

    Raises:
        RequestError: it does.
    """
    if sealed is not None and sealed.sha256 != manifest.sha256:
        raise RequestError(
            f"{artifact} already holds another manifest (sha256 {sealed.sha256[:12]}… of {sealed.source}, this one is "
            f"{manifest.sha256[:12]}…) and a version is never overwritten: give another destination or remove it first."
        )


def _send_all(carrier: _Carrier, files: Iterable[ManifestFile], files_at_once: int) -> None:
    """Send files, largest first, several at a time; on the first failure, or a signal, all end and clean up."""
    ordered = sorted(files, key=lambda file: (-file.size, file.path))
    with ThreadPoolExecutor(max_workers=files_at_once, thread_name_prefix="airfreight-copy") as pool:
        futures = [pool.submit(carrier.send, file) for file in ordered]
        try:
            pending = set(futures)
            while pending:
                done, pending = wait(pending, timeout=TICK, return_when=FIRST_EXCEPTION)
                for future in done:
                    future.result()
                carrier.progress.tick()
        except BaseException:
            carrier.patience.stop.set()
            for future in futures:
                future.cancel()
            raise


@dataclass(frozen=True)
class _Carrier:
    """Sends single files; one for a whole copy, used by several threads."""

    source: Source
    store: Store
    manifest: Manifest
    progress: Progress
    patience: Patience

    def send(self, file: ManifestFile) -> None:
        self.patience.check()
        upload = self.patience.call(partial(self.store.begin, file))
        try:
            with closing(self._read(file)) as chunks:
                for part in _parts(chunks, file.size, upload.part_size):
                    self.patience.call(partial(upload.write, part))
                    del part  # or it would stay in memory while the next one fills
            self.patience.call(upload.commit)
        except BaseException:
            upload.abort()
            raise
        self.progress.file_done()

    def _read(self, file: ManifestFile) -> Generator[bytes, None, None]:
        """Yield the file's bytes; end normally only if size and digest are the manifest's."""
        hasher = file.hasher()
        offset = credit = 0
        attempts = Attempts(self.patience)
        while True:
            try:
                with closing(self.source.open(file, offset)) as chunks:
                    for chunk in chunks:
                        self.patience.check()
                        offset += len(chunk)
                        credit += len(chunk)
                        if offset > file.size:
                            raise self._wrong(file, f"has more than {file.size} bytes, the size the manifest says")
                        hasher.update(chunk)
                        self.progress.moved(len(chunk))
                        yield chunk
                break
            except TemporaryError as error:
                if credit >= PROGRESS_BYTES:
                    attempts.reset()
                credit = 0
                attempts.wait_after(error)
        if offset != file.size:
            raise self._wrong(file, f"has {offset} bytes, the manifest says {file.size}")
        if hasher.hexdigest() != file.digest:
            raise self._wrong(file, f"has {file.digest_name} {hasher.hexdigest()}, the manifest says {file.digest}")

    def _wrong(self, file: ManifestFile, finding: str) -> IntegrityError:
        return IntegrityError(
            f"{self.manifest.source}: {file.path} {finding}; nothing was published: "
            "the hub, or a mirror or proxy before it, serves damaged bytes and must be repaired."
        )


def _parts(chunks: Iterator[bytes], size: int, part_size: int) -> Iterator[bytearray]:
    """Cut chunks of exactly `size` bytes together into parts; they are read to their end, where they are verified."""
    left = size
    part, filled = bytearray(min(part_size, left)), 0
    for chunk in chunks:
        view = memoryview(chunk)
        while view:
            count = min(len(view), len(part) - filled)
            memoryview(part)[filled : filled + count] = view[:count]
            filled, view = filled + count, view[count:]
            if filled == len(part):
                left -= filled
                yield part
                del part  # before the next one is made: never two in memory
                part, filled = bytearray(min(part_size, left)), 0
