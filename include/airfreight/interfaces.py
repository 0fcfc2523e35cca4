"""The two small interfaces that the engine knows, `Source` and `Store`, and a file on its way between them, `Upload`.

What is said here is what every implementation must keep; tests/unit/store_contract.py asks every store for it.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Protocol

from airfreight.manifest import Manifest, ManifestFile


class Source(Protocol):
    """Where files come from."""

    @property
    def server(self) -> str:
        """Who is to blame for wrong bytes, and to be repaired, as the subject of a sentence: `the hub, or a mirror or
        proxy before it,`.
        """
        ...

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
    """One file on its way into a store, held by a lease until `commit`, `release` or `abort`.

    Bytes before `offset` are in the store already: an earlier run sent them. Used by one thread at a time, but for
    `write` where `parallel` says more.
    """

    @property
    def part_size(self) -> int:
        """Bytes of every part but the last, which may be shorter; a multiple of 64 where there is more than one."""
        ...

    @property
    def parallel(self) -> int:
        """How many parts may be written at the same moment, each from a thread of its own, in any order.

        1 where the order matters: then each part begins where the one before it ended.
        """
        ...

    @property
    def offset(self) -> int:
        """First byte still wanted: 0 for a fresh upload, else a multiple of `part_size`, or the size of the file."""
        ...

    @property
    def state(self) -> str | None:
        """What `write` was given with the part that ends at `offset`; None where that is unknown or `offset` is 0."""
        ...

    def write(self, part: bytearray | memoryview, state: str | None, at: int) -> None:
        """Take a part. After a `TemporaryError` the same part may be written again.

        Args:
            part: exactly `part_size` bytes, fewer only at the end of the file. The memory is the caller's again when
                this returns, and is used for a later part.
            state: of the hash after this part (`airfreight.hashing`), to be kept for whoever goes on; after the last
                part the digest, which was right; None where there is no state.
            at: byte of the file where the part begins: `offset` and a multiple of `part_size`.
        Raises:
            HeldError: another run took this file over, because our lease ran out.
            LostError: what was written before is gone; the engine then calls `abort` and begins the bundle again.
        """
        ...

    def commit(self) -> None:
        """Make the file visible, whole; in a bundle, the last commit makes all its files visible, and each one before
        only says that its bytes were right. Safe to repeat, also when the first try succeeded unnoticed.

        Raises:
            HeldError, LostError: as `write`.
        """
        ...

    def release(self) -> None:
        """Stop here, keep what was written and let go of the lease, so that the next run goes on at once.

        As far as possible; never raises, also after a failed or finished `commit`. Concerns the whole bundle.
        """
        ...

    def abort(self) -> None:
        """Drop what was written and let go of the lease, as far as possible; never raises, also after a failed or
        finished `commit`. Concerns the whole bundle, unless that is visible already.
        """
        ...


class Store(Protocol):
    """The place of one version of one model. Methods may be called from any thread and are safe to repeat.

    All raise RequestError (no such place, no right to it) and TemporaryError (cannot be reached now).

    What a killed run leaves is a checkpoint for each file under way (`airfreight.checkpoint`), outside every served
    prefix. It carries a lease: whoever works renews it; whoever finds it expired, or its own, may go on from there.
    Nobody touches what a live lease covers.

    Files travel in bundles. A bundle is begun, written and committed file by file, in its order, by one thread, and is
    held, to be had elsewhere, or reused as a whole or not at all. Most stores have bundles of one file; a store whose
    unit is larger than a file, as a layer of an image, has bundles of several.
    """

    @property
    def artifact(self) -> str:
        """URI of this place."""
        ...

    def sealed(self) -> Manifest | None:
        """Return the manifest that was written last, or None: then nothing was delivered here."""
        ...

    def bundles(self, files: Sequence[ManifestFile]) -> list[tuple[ManifestFile, ...]]:
        """Return the files as they must travel: each file once, each tuple in the order in which it is written.

        What is in a bundle follows from the manifest alone, so that every run, and every slice, sees the same ones.

        Args:
            files: all of the manifest, or those of some whole bundles.
        """
        ...

    def held(self, files: Sequence[ManifestFile]) -> frozenset[str]:
        """Return the paths of those files that are here whole, verified when they were written, and unchanged since."""
        ...

    def elsewhere(self, files: Sequence[ManifestFile]) -> frozenset[str]:
        """Return the paths of those files that another sealed version of this model in the same store has whole.

        They can be had by `reuse`, without a byte from the source. A store that cannot copy inside itself returns none.
        """
        ...

    def reuse(self, file: ManifestFile) -> bool:
        """Copy a file inside the store from another sealed version of this model; whole or not at all. Asked for each
        file of a bundle in turn, while the answer is yes.

        Returns:
            False if no version has it (any more): then it must be sent.
        Raises:
            HeldError: a live run is at this file.
        """
        ...

    def prepare(self, files: Sequence[ManifestFile]) -> None:
        """Prove that this place can be written and can take files like these, before any byte moves."""
        ...

    def begin(self, file: ManifestFile) -> Upload:
        """Start to take one file, or go on where a dead run, or one that let go, stopped. Takes the lease, for the
        whole bundle at its first file.

        Nothing of the file is visible before `commit`. The files of a bundle come in its order, each after the commit
        of the one before. A file whose bytes were all written before has `offset` at its size and its digest as
        `state`: then it is not read, only committed.

        Raises:
            HeldError: a live run is at this file.
        """
        ...

    def seal(self, manifest: Manifest) -> str:
        """Write the manifest, last, and return the artifact.

        Raises:
            RequestError: another manifest is here. Never overwritten, also when two copies end at the same moment.
        """
        ...

    def renew(self) -> None:
        """Renew the leases that are due. The engine calls it about once a second, from one thread; never raises."""
        ...

    def tidy(self, files: Sequence[ManifestFile]) -> None:
        """Remove what dead runs left of this version: unfinished uploads, temporary files, checkpoints.

        Needs the right to write only where something is left.

        Args:
            files: those this run was to carry: of them, what is our own goes too. Of all others only what no live
                lease covers.
        """
        ...
