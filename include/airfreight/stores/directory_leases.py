"""Checkpoints as small files of a directory (a `checkpoint.Shelf`): conditional writes on a file system.

    {root}/.airfreight/lock                      locked with flock(2) for the moment of one read-compare-rename
    {root}/.airfreight/uploads/<artifact>/       what lies here is described in `airfreight.checkpoint`

The lock only makes one write of a small file atomic; who may work on what is said by the leases in those files, so a
process that dies, or a machine that vanishes, holds nothing up for longer than its lease. All times are the file
system's own: now is the time it gives to a file that is touched, which on NFS is the server's.

A checkpoint is not made durable: after a power failure it may be lost or torn, and then the file is sent from its
beginning. What it must never do is to tell of bytes that are not on disk; see `directory.DirectoryStore`.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

from airfreight.checkpoint import ChangedError, Stored
from airfreight.errors import TemporaryError
from airfreight.manifest import RESERVED_DIRECTORY
from airfreight.source import DirectoryRoot
from airfreight.stores.directory_layout import SUFFIX
from airfreight.stores.files import opened_directory, read_small, sizes_in, translated, write_new

LOCK_NAME = "lock"
LOCK_TIMEOUT = 30.0  # seconds; it is held for a few file operations
LOCK_POLL = 0.005  # seconds; flock(2) has no time-out of its own
CHECKPOINT_LIMIT = 4 * 1024 * 1024  # bytes


class DirectoryShelf:
    """The checkpoints of one artifact below one root.

    Args:
        root: of the store; it must exist.
        folder: the folder of the artifact, relative to the root.
    """

    def __init__(self, root: DirectoryRoot, folder: str) -> None:
        self._root = root
        self._parts = folder.strip("/").split("/")
        self._threads = Lock()

    def read(self, name: str) -> Stored | None:
        """See `checkpoint.Shelf.read`."""
        with self.locked() as (directory, now):
            return _stored(directory, name, now)

    def write(self, name: str, data: bytes, tag: str | None) -> str:
        """See `checkpoint.Shelf.write`."""
        with self.locked() as (directory, now):
            there = _stored(directory, name, now)
            if (there.tag if there is not None else None) != tag:
                raise ChangedError
            temporary = f"{name}.tmp"  # the lock is ours, so nobody else writes it
            write_new(directory, temporary, data, durable=False)
            os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
            return _tag(os.stat(name, dir_fd=directory, follow_symlinks=False), data)

    def remove(self, name: str, tag: str) -> None:
        """See `checkpoint.Shelf.remove`."""
        with self.locked() as (directory, now):
            there = _stored(directory, name, now)
            if there is not None and there.tag == tag:
                os.unlink(name, dir_fd=directory)

    def names(self) -> list[str]:
        """See `checkpoint.Shelf.names`."""
        with self.locked() as (directory, _):
            return sorted(name for name in sizes_in(directory) if name.endswith(SUFFIX))

    @contextmanager
    def locked(self) -> Iterator[tuple[int, float]]:
        """Hold the store's lock; give the descriptor of the artifact's folder, which is made, and the time now.

        Raises:
            TemporaryError: somebody holds the lock for longer than any of our steps takes.
        """
        with (
            self._threads,
            translated(f"{self._root}{'/'.join(self._parts)}/"),
            opened_directory(self._root.path, RESERVED_DIRECTORY, make=True) as reserved,
            self._flock(reserved) as lock,
            opened_directory(self._root.path, *self._parts, make=True) as directory,
        ):
            os.utime(lock)
            yield directory, os.fstat(lock).st_mtime

    @contextmanager
    def _flock(self, reserved: int) -> Iterator[int]:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        lock = os.open(LOCK_NAME, flags, 0o666, dir_fd=reserved)
        try:
            deadline = time.monotonic() + LOCK_TIMEOUT
            while not _try_lock(lock):
                if time.monotonic() > deadline:
                    raise TemporaryError(
                        f"{self._root}{RESERVED_DIRECTORY}/{LOCK_NAME} has been locked for {LOCK_TIMEOUT:.0f} s: "
                        "end the stopped process that holds it, or try again later."
                    )
                time.sleep(LOCK_POLL)
            yield lock
        finally:
            os.close(lock)  # which also unlocks


def _try_lock(descriptor: int) -> bool:
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def _stored(directory: int, name: str, now: float) -> Stored | None:
    data = read_small(directory, name, CHECKPOINT_LIMIT)
    if data is None:
        return None
    status = os.stat(name, dir_fd=directory, follow_symlinks=False)
    return Stored(data, _tag(status, data), max(0.0, now - status.st_mtime))


def _tag(status: os.stat_result, data: bytes) -> str:
    """Return what changes with every write: each one makes a new file."""
    return f"{status.st_ino}-{status.st_mtime_ns}-{hashlib.sha256(data).hexdigest()[:16]}"
