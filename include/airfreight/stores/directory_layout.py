"""Where a directory store keeps what, and its records of the files it holds whole.

    /models/acme/pong/41ab6c1b1c1f/model.safetensors     appears whole, by rename
    /models/acme/pong/41ab6c1b1c1f/airfreight.json       the manifest, written last
    /models/.airfreight/uploads/<artifact>/<path>.json   checkpoint and lease of a file under way (`checkpoint`)
    /models/.airfreight/uploads/<artifact>/<path>.<digest>.<claim>.part   its bytes so far
    /models/.airfreight/held/<artifact>/<path>.json      {"mtime_ns": 1767225600000000000, "sha256": "71d0…", "size": 9}

<artifact> and <path> are the sha256 of the place relative to the root, and of the path below it, so a volume may be
mounted elsewhere the next time; <digest> is the first 16 digits, for some file systems take names of 143 bytes only.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from airfreight.checkpoint import folder, name
from airfreight.manifest import RESERVED_DIRECTORY, ManifestFile
from airfreight.source import DirectoryRoot
from airfreight.stores.files import opened_directory, read_small, sizes_in, translated, write_new

PART = ".part"
SUFFIX = ".json"
RECORD_LIMIT = 4096  # bytes


class Layout:
    """The names of one version below one root.

    Args:
        root: of the store.
        place: of this version, below `root`.
    Raises:
        ValueError: it is not below.
    """

    def __init__(self, root: DirectoryRoot, place: DirectoryRoot) -> None:
        if not place.path.startswith(root.path) or place == root:
            raise ValueError(f"{place} is not below {root}")
        self.root = root
        self.place = place
        self.relative = place.path.removeprefix(root.path)
        self.parts = tuple(self.relative.strip("/").split("/"))
        self.uploads_folder = folder(self.relative)
        self._records = (RESERVED_DIRECTORY, "held", hashlib.sha256(self.relative.encode()).hexdigest())

    def sibling(self, version: str) -> Layout:
        """Return the layout of another version of the same model."""
        parent = "".join(f"{part}/" for part in self.parts[:-1])
        return Layout(self.root, DirectoryRoot(f"{self.root.path}{parent}{version}/"))

    def address(self, file: ManifestFile) -> str:
        """Return the address of a file, for sentences."""
        return f"{self.place}{file.path}"

    @contextmanager
    def uploads(self) -> Iterator[int]:
        """Give the descriptor of the folder where unfinished files lie."""
        with opened_directory(self.root.path, *self.uploads_folder.strip("/").split("/")) as directory:
            yield directory

    @contextmanager
    def target(self, *parents: str) -> Iterator[int]:
        """Give the descriptor of the directory of this version, or of one below it; it is made."""
        with opened_directory(self.root.path, *self.parts, *parents, make=True) as directory:
            yield directory

    def unlink_parts(self, file: ManifestFile) -> None:
        """Remove the unfinished bytes of a file.

        Raises:
            RequestError, TemporaryError: the file system refuses.
        """
        with translated(self.address(file)), self.uploads() as directory:
            for label in sizes_in(directory):
                if label.startswith(parts_of(file)):
                    os.unlink(label, dir_fd=directory)

    def record(self, file: ManifestFile, mtime_ns: int) -> None:
        """Write down what is about to appear. Not synced: if it is lost, the file is only sent once more.

        Raises:
            OSError: the file system refuses.
        """
        label = name(file)
        with opened_directory(self.root.path, *self._records, make=True) as directory:
            write_new(directory, f"{label}.tmp", _record(file, mtime_ns), durable=False)
            os.rename(f"{label}.tmp", label, src_dir_fd=directory, dst_dir_fd=directory)

    def holds(self, file: ManifestFile) -> bool:
        """Whether this version has a file, at its path, and unchanged since it was written here.

        Raises:
            RequestError, TemporaryError: the file system refuses.
        """
        with translated(self.address(file)):
            try:
                status = os.lstat(self.place.path + file.path)
                if not stat.S_ISREG(status.st_mode) or status.st_size != file.size:
                    return False
                with opened_directory(self.root.path, *self._records) as directory:
                    found = read_small(directory, name(file), RECORD_LIMIT)
            except (FileNotFoundError, NotADirectoryError):
                return False
        return found == _record(file, status.st_mtime_ns)


def parts_of(file: ManifestFile) -> str:
    """Return how the names of a file's unfinished bytes begin; they are of this path and this content."""
    return f"{name(file).removesuffix(SUFFIX)}.{file.digest[:16]}."


def _record(file: ManifestFile, mtime_ns: int) -> bytes:
    value = {"mtime_ns": mtime_ns, file.digest_name: file.digest, "size": file.size}
    return json.dumps(value, sort_keys=True).encode()
