"""A directory as a store: a volume that model servers mount, or a disk of one's own.

    /models/acme/pong/41ab6c1b1c1f/     the files, each by rename, and airfreight.json, last
    /models/.airfreight/                what is under way, and what is known of the files (`directory_layout`)

A file is held if it is regular and its size and time of change are those of the record that was written before its
name appeared, after the engine had compared its digest; nothing need be read to know that.

The root must exist. Made by us, a mistyped path or a volume that is not mounted would fill the disk of a pod.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Lock

from airfreight.checkpoint import name
from airfreight.errors import AirfreightError, IntegrityError, RequestError
from airfreight.leases import Leases, Tenure
from airfreight.manifest import MANIFEST_NAME, RESERVED_DIRECTORY, Manifest, ManifestFile
from airfreight.source import DirectoryRoot
from airfreight.stores.directory_layout import PART, SUFFIX, Layout
from airfreight.stores.directory_leases import DirectoryShelf
from airfreight.stores.directory_source import DirectoryFolder
from airfreight.stores.directory_upload import DirectoryUpload
from airfreight.stores.files import opened_directory, sizes_in, translated, write_new
from airfreight.transfer import refuse_other

MIB = 1024 * 1024
PART_SIZE = 16 * MIB
PROBE = "probe"
UNFINISHED_MANIFEST = "manifest.tmp"
NAME_LIMIT = 255  # bytes of one part of a path: NAME_MAX of linux/limits.h, as the next
PATH_LIMIT = 4095

Identity = tuple[str, str, int]


class DirectoryStore:
    """One version of one model below a directory (a `Store`).

    Args:
        root: of the store; it must exist.
        place: of this version, below `root`.
        tenure: who holds leases here, and for how long.
        part_size: bytes of every part but the last; a multiple of 64.
    """

    def __init__(
        self, root: DirectoryRoot, place: DirectoryRoot, tenure: Tenure | None = None, part_size: int = PART_SIZE
    ) -> None:
        self._layout = Layout(root, place)
        self._part_size = part_size
        self._shelf = DirectoryShelf(root, self._layout.uploads_folder)
        self._leases = Leases(self._layout.relative, self._shelf, tenure or Tenure())
        self._twins: dict[Identity, tuple[Layout, ManifestFile]] | None = None
        self._lock = Lock()

    @property
    def artifact(self) -> str:
        """`file:///directory/`, with its slash."""
        return str(self._layout.place)

    def sealed(self) -> Manifest | None:
        """See `Store.sealed`."""
        self._check_root()
        if not os.path.lexists(self._layout.place.path):
            return None
        return DirectoryFolder(self._layout.place).recorded()

    def bundles(self, files: Sequence[ManifestFile]) -> list[tuple[ManifestFile, ...]]:
        """See `Store.bundles`: each file alone."""
        return [(file,) for file in files]

    def held(self, files: Sequence[ManifestFile]) -> frozenset[str]:
        """See `Store.held`. Two looks at the file system for each file; reads no file of the model."""
        self._check_root()
        return frozenset(file.path for file in files if self._layout.holds(file))

    def elsewhere(self, files: Sequence[ManifestFile]) -> frozenset[str]:
        """See `Store.elsewhere`. Reads the manifests of the other versions once."""
        twins = self._other_versions()
        return frozenset(file.path for file in files if _identity(file) in twins)

    def reuse(self, file: ManifestFile) -> bool:
        """See `Store.reuse`. The bytes are read once and hashed, so that a damaged disk damages nothing further."""
        layout, there = self._other_versions().get(_identity(file), (None, file))
        if layout is None or not layout.holds(there):
            return False
        upload = self.begin(file)
        try:
            good = upload.copy_from(DirectoryFolder(layout.place), there.path)
        except IntegrityError:
            good = False
        except BaseException:
            upload.release()
            raise
        if not good:
            upload.abort()
            return False
        upload.commit()
        return True

    def prepare(self, files: Sequence[ManifestFile]) -> None:
        """See `Store.prepare`. A small file is written and removed; names and free room are looked at."""
        for file in files:
            self._check_name(file)
        with self._shelf.locked() as (uploads, _), translated(self.artifact):
            write_new(uploads, PROBE, b"")
            os.unlink(PROBE, dir_fd=uploads)
            with self._layout.target() as target:
                if os.fstat(target).st_dev != os.fstat(uploads).st_dev:
                    raise RequestError(
                        f"{self.artifact} lies on another file system than {self._layout.root}, so no file can appear "
                        "there at once and whole: give the root of the volume itself as destination."
                    )
                volume = os.fstatvfs(target)
            needed, free = self._needed(files, uploads), volume.f_bavail * volume.f_frsize
        if needed > free:
            raise RequestError(
                f"{self.artifact} needs {needed / 2**30:.1f} GiB more and its volume has {free / 2**30:.1f} GiB free: "
                "free room there, or name a larger volume."
            )

    def begin(self, file: ManifestFile) -> DirectoryUpload:
        """See `Store.begin`."""
        self._check_name(file)
        claim = self._leases.claim(file)
        try:
            return DirectoryUpload(self._layout, file, claim, self._part_size)
        except BaseException:
            with contextlib.suppress(AirfreightError):
                claim.release()
            raise

    def seal(self, manifest: Manifest) -> str:
        """See `Store.seal`. The store's lock is held, so of two that end at once one is first."""
        with (
            self._shelf.locked() as (uploads, _),
            translated(self.artifact + MANIFEST_NAME),
            self._layout.target() as target,
        ):
            if MANIFEST_NAME not in sizes_in(target):
                write_new(uploads, UNFINISHED_MANIFEST, manifest.canonical)
                os.rename(UNFINISHED_MANIFEST, MANIFEST_NAME, src_dir_fd=uploads, dst_dir_fd=target)
                os.fsync(target)
        refuse_other(self.artifact, self.sealed(), manifest)
        return self.artifact

    def renew(self) -> None:
        """See `Store.renew`."""
        self._leases.renew()

    def tidy(self, files: Sequence[ManifestFile]) -> None:
        """See `Store.tidy`."""
        folder = Path(self._layout.root.path + self._layout.uploads_folder)
        if not os.path.lexists(folder):
            return
        for claim in self._leases.leftovers(files):
            claim.drop(lambda: None)
        with self._shelf.locked() as (uploads, _):
            there = set(sizes_in(uploads))
            for label in there:
                if not label.endswith(SUFFIX) and label.partition(".")[0] + SUFFIX not in there:
                    os.unlink(label, dir_fd=uploads)  # its checkpoint is gone, so nobody goes on with it
            with contextlib.suppress(OSError):  # somebody else is at work there
                folder.rmdir()

    def _check_root(self) -> None:
        root = self._layout.root
        with translated(str(root)):
            root.directory.stat()

    def _check_name(self, file: ManifestFile) -> None:
        longest = max(len(part.encode()) for part in file.path.split("/"))
        whole = len((self._layout.place.path + file.path).encode())
        if longest > NAME_LIMIT or whole > PATH_LIMIT:
            raise RequestError(
                f"{self._layout.address(file)} is longer than a file system takes, {NAME_LIMIT} bytes for a name and "
                f"{PATH_LIMIT} for all: leave the file out, or give a shorter root."
            )

    def _needed(self, files: Sequence[ManifestFile], uploads: int) -> int:
        """Return the bytes these files will still take on the volume."""
        parts = {label: size for label, size in sizes_in(uploads).items() if label.endswith(PART)}
        started = {label.partition(".")[0]: size for label, size in parts.items()}
        return sum(
            max(0, file.size - started.get(name(file).removesuffix(SUFFIX), 0))
            for file in files
            if not self._layout.holds(file)
        )

    def _other_versions(self) -> dict[Identity, tuple[Layout, ManifestFile]]:
        """Return the files of all other sealed versions of this model, by content."""
        with self._lock:
            if self._twins is None:
                self._twins = dict(self._read_versions())
            return self._twins

    def _read_versions(self) -> Iterator[tuple[Identity, tuple[Layout, ManifestFile]]]:
        *parents, version = self._layout.parts
        with translated(str(self._layout.root)):
            try:
                with opened_directory(self._layout.root.path, *parents) as directory:
                    others = sorted(set(sizes_in(directory)) - {version, RESERVED_DIRECTORY})
            except FileNotFoundError:
                return
        for other in others:
            layout, manifest = self._layout.sibling(other), None
            with contextlib.suppress(AirfreightError):  # what is no artifact, or cannot be read, has nothing for us
                manifest = DirectoryFolder(layout.place).recorded()
            for file in manifest.files if manifest is not None else ():
                if layout.holds(file):
                    yield _identity(file), (layout, file)


def _identity(file: ManifestFile) -> Identity:
    return file.digest_name, file.digest, file.size
