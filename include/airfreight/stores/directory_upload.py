"""One file on its way into a directory.

What is told is on disk first: a part is synced before its checkpoint speaks of it, the whole before its name appears, a
directory after each rename. So a power failure too leaves either the whole file or a place to go on from.

The unfinished bytes carry the claim of whoever is at work in their name, and are renamed when the lease changes hands:
who lost it finds nothing to write to.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager

from airfreight.checkpoint import Part
from airfreight.errors import AirfreightError, TemporaryError
from airfreight.leases import Claim
from airfreight.manifest import ManifestFile
from airfreight.stores.directory_layout import PART, Layout, parts_of
from airfreight.stores.directory_source import DirectoryFolder
from airfreight.stores.files import sizes_in, translated


class DirectoryUpload:
    """See the top of this file (an `Upload`).

    Args:
        layout: of the version.
        file: what is to arrive.
        claim: its lease, which is ours.
        part_size: bytes of every part but the last, where no earlier run chose one.
    Raises:
        RequestError, TemporaryError: the file system refuses.
    """

    def __init__(self, layout: Layout, file: ManifestFile, claim: Claim, part_size: int) -> None:
        self._layout = layout
        self._file = file
        self._claim = claim
        self._name = f"{parts_of(file)}{claim.checkpoint.claim}{PART}"
        self._committed = False
        found = claim.checkpoint
        self._part_size = found.part_size or part_size
        self._start = self._end = self._take_over(found.offset)
        self._state = found.state if self._start else None

    @property
    def part_size(self) -> int:
        """See `Upload.part_size`."""
        return self._part_size

    @property
    def parallel(self) -> int:
        """See `Upload.parallel`: the checkpoint counts the bytes of one file that grows."""
        return 1

    @property
    def offset(self) -> int:
        """See `Upload.offset`."""
        return self._start

    @property
    def state(self) -> str | None:
        """See `Upload.state`."""
        return self._state

    def write(self, part: bytearray | memoryview, state: str | None, at: int) -> None:
        """See `Upload.write`."""
        end = at + len(part)
        with self._opened() as descriptor:
            _write_at(descriptor, part, at)
            os.fdatasync(descriptor)
        self._claim.record(parts=(Part("", end, ""),), part_size=self._part_size, state=state)
        self._end = end

    def commit(self) -> None:
        """See `Upload.commit`."""
        if not self._committed:
            self._claim.record()  # the lease is ours, and for longer than the next steps take
            try:
                self._publish()
            except AirfreightError:
                if not self._layout.holds(self._file):
                    raise
                # Else it was done before, and the answer was lost, as happens on network volumes.
            self._committed = True
        self._claim.done()

    def release(self) -> None:
        """See `Upload.release`."""
        with contextlib.suppress(AirfreightError):
            self._claim.release()

    def abort(self) -> None:
        """See `Upload.abort`."""
        with contextlib.suppress(AirfreightError):
            self._claim.drop(lambda: self._layout.unlink_parts(self._file))

    def copy_from(self, folder: DirectoryFolder, path: str) -> bool:
        """Take all bytes from another version, and say whether they are still the right ones.

        Raises:
            RequestError, TemporaryError, IntegrityError: as `DirectoryFolder.read`, or the file system refuses.
        """
        hasher = self._file.hasher()
        with self._opened() as descriptor:
            os.ftruncate(descriptor, 0)
            self._end = 0
            for chunk in folder.read(path, self._file.size):
                hasher.update(chunk)
                _write_at(descriptor, chunk, self._end)
                self._end += len(chunk)
        return hasher.hexdigest() == self._file.digest

    def _take_over(self, offset: int) -> int:
        """Make the bytes of earlier runs ours, and return how many of them count."""
        with translated(self._layout.address(self._file)), self._layout.uploads() as uploads:
            sizes = {label: size for label, size in sizes_in(uploads).items() if label.startswith(parts_of(self._file))}
            best = max(sizes, key=lambda label: sizes[label], default=None)
            if best is None or sizes[best] < offset:
                best, offset = None, 0
            for label in sizes:
                if label == best:
                    os.rename(label, self._name, src_dir_fd=uploads, dst_dir_fd=uploads)
                else:
                    os.unlink(label, dir_fd=uploads)
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            descriptor = os.open(self._name, flags, 0o644, dir_fd=uploads)
            try:
                os.ftruncate(descriptor, offset)
            finally:
                os.close(descriptor)
        return offset

    def _publish(self) -> None:
        layout, file = self._layout, self._file
        *parents, last = file.path.split("/")
        with self._opened() as descriptor:
            status = os.fstat(descriptor)
            if status.st_size != file.size:
                raise TemporaryError(
                    f"{layout.address(file)} has {status.st_size} bytes on disk where {file.size} were written: "
                    "nobody else may write there; run it again."
                )
            os.fchmod(descriptor, 0o644)
            os.fsync(descriptor)
        with translated(layout.address(file)), layout.uploads() as uploads, layout.target(*parents) as target:
            layout.record(file, status.st_mtime_ns)
            os.rename(self._name, last, src_dir_fd=uploads, dst_dir_fd=target)
            os.fsync(target)

    @contextmanager
    def _opened(self) -> Iterator[int]:
        """Open the bytes so far.

        Raises:
            HeldError: another run took them over.
        """
        with translated(self._layout.address(self._file)):
            try:
                with self._layout.uploads() as uploads:
                    descriptor = os.open(self._name, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=uploads)
            except FileNotFoundError as error:
                self._claim.record()
                raise TemporaryError(
                    f"Somebody removed the first part of {self._layout.address(self._file)}: run it again."
                ) from error
            try:
                yield descriptor
            finally:
                os.close(descriptor)


def _write_at(descriptor: int, data: bytes | bytearray | memoryview, offset: int) -> None:
    view = memoryview(data)
    while view:
        count = os.pwrite(descriptor, view, offset)
        offset, view = offset + count, view[count:]
