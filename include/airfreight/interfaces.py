"""The two small interfaces that the engine knows, `Source` and `Store`, and a file on its way between them, `Upload`.

What is said here is what every implementation must keep; tests/unit/store_contract.py asks every store for it.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Protocol

from airfreight.manifest import Manifest, ManifestFile


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
    """One file on its way into a store, held by a lease until `commit`, `release` or `abort`.

    Used by one thread at a time. Bytes before `offset` are in the store already: an earlier run sent them.
    """

    @property
    def part_size(self) -> int:
        """Bytes of every part but the last, which may be shorter; a multiple of 64 where there is more than one."""
        ...

    @property
    def offset(self) -> int:
        """First byte still wanted: 0 for a fresh upload, else a multiple of `part_size`, or the size of the file."""
        ...

    @property
    def state(self) -> str | None:
        """What `write` was given with the part that ends at `offset`; None where that is unknown or `offset` is 0."""
        ...

    def write(self, part: bytearray | memoryview, state: str | None) -> None:
        """Take the next part. After a `TemporaryError` the same part may be written again.

        Args:
            part: exactly `part_size` bytes, fewer only at the end of the file. The memory is the caller's again when
                this returns, and is used for a later part.
            state: of the hash after this part (`airfreight.hashing`), to be kept for whoever goes on; after the last
                part the digest, which was right; None where there is no state.
        Raises:
            HeldError: another run took this file over, because our lease ran out.
        """
        ...

    def commit(self) -> None:
        """Make the file visible, whole. Safe to repeat, also when the first try succeeded unnoticed."""
        ...

    def release(self) -> None:
        """Stop here, keep what was written and let go of the lease, so that the next run goes on at once.

        As far as possible; never raises, also after a failed or finished `commit`.
        """
        ...

    def abort(self) -> None:
        """Drop what was written, as far as possible; never raises, also after a failed or finished `commit`."""
        ...


class Store(Protocol):
    """The place of one version of one model. Methods may be called from any thread and are safe to repeat.

    All raise RequestError (no such place, no right to it) and TemporaryError (cannot be reached now).

    What a killed run leaves is a checkpoint for each file under way (`airfreight.checkpoint`), outside every served
    prefix. It carries a lease: whoever works renews it; whoever finds it expired, or its own, may go on from there.
    Nobody touches what a live lease covers.
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

    def elsewhere(self, files: Sequence[ManifestFile]) -> frozenset[str]:
        """Return the paths of those files that another sealed version of this model in the same store has whole.

        They can be had by `reuse`, without a byte from the source. A store that cannot copy inside itself returns none.
        """
        ...

    def reuse(self, file: ManifestFile) -> bool:
        """Copy a file inside the store from another sealed version of this model; whole or not at all.

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
        """Start to take one file, or go on where a dead run, or one that let go, stopped. Takes the lease.

        Nothing of the file is visible before `commit`.

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
