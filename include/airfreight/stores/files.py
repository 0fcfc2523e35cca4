"""What a file system's refusals mean, and the few steps that must be right: no link is followed, no write is half made.

ENOENT                                       RequestError     gone, or never there
EACCES, EPERM, EROFS                         RequestError     no right to it
ENOSPC, EDQUOT, EFBIG                        RequestError     no room
ENAMETOOLONG, EINVAL, EILSEQ                 RequestError     a name this file system cannot hold
ELOOP, ENOTDIR, EISDIR, EEXIST               RequestError     something else lies in the way
EIO, ESTALE, ETIMEDOUT and all others        TemporaryError   a disk or a network volume that may heal

Files below a directory are reached from its open descriptor, part by part, and a part that is a link is refused
(`O_NOFOLLOW`, open(2)): whoever can write into a volume cannot lead us out of it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from airfreight.errors import AirfreightError, RequestError, TemporaryError

_RIGHTS = {errno.EACCES, errno.EPERM, errno.EROFS}
_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NAME = {errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ}
_IN_THE_WAY = {errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY}


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Turn an `OSError` raised inside into one of our errors about `what`, an address.

    Raises:
        RequestError, TemporaryError: see the table above.
    """
    try:
        yield
    except OSError as error:
        raise _meaning(what, error) from error


def _meaning(what: str, error: OSError) -> AirfreightError:
    reason = error.strerror or type(error).__name__
    if error.errno == errno.ENOENT:
        return RequestError(f"{what} does not exist: check the address, and that the volume is mounted.")
    if error.errno in _RIGHTS:
        return RequestError(
            f"{what} may not be used by user {os.getuid()} ({reason}): give that user the right to read and write "
            "there, or name another directory."
        )
    if error.errno in _ROOM:
        return RequestError(f"{what} does not fit ({reason}): free room on the volume, or name a larger one.")
    if error.errno in _NAME:
        return RequestError(f"{what} cannot be a name on its file system ({reason}): name another directory.")
    if error.errno in _IN_THE_WAY:
        return RequestError(
            f"{what} cannot be reached ({reason}): a link, a file or a directory of another kind lies in the way; "
            "take it out."
        )
    return TemporaryError(f"{what} cannot be used now ({reason}): try again later, or check the volume.")


@contextmanager
def opened_directory(start: str, *parts: str, make: bool = False) -> Iterator[int]:
    """Give the descriptor of the directory `parts` below `start`, following no link below `start`.

    Args:
        make: whether missing directories below `start` are made, each of them durable in its parent.
    Raises:
        OSError: as open(2) and mkdir(2).
    """
    descriptor = os.open(start, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in parts:
            following = _step(descriptor, part, make)
            os.close(descriptor)
            descriptor = following
        yield descriptor
    finally:
        os.close(descriptor)


def _step(parent: int, name: str, make: bool) -> int:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(name, flags, dir_fd=parent)
    except FileNotFoundError:
        if not make:
            raise
    try:
        os.mkdir(name, dir_fd=parent)
        os.fsync(parent)
    except FileExistsError:
        pass  # another thread or run was first
    return os.open(name, flags, dir_fd=parent)


def read_small(directory: int, name: str, limit: int) -> bytes | None:
    """Return the content of one regular file of at most `limit` bytes in an open directory, None if it is not there.

    Raises:
        OSError: EFBIG where it is larger, EINVAL where it is no regular file; else as open(2) and read(2).
    """
    try:
        descriptor = open_regular(name, directory)
    except FileNotFoundError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise OSError(errno.EFBIG, f"more than {limit} bytes")
    return data


def open_regular(name: str, directory: int | None = None) -> int:
    """Open a regular file to read it, following no link and never waiting for the other end of a pipe.

    Raises:
        OSError: EINVAL where it is no regular file; else as open(2).
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(name, flags, dir_fd=directory)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file")
    return descriptor


def write_new(directory: int, name: str, data: bytes, durable: bool = True) -> None:
    """Write a small file, in place of one that a dead run left under this name; `durable` waits until it is on disk.

    Raises:
        OSError: as open(2), write(2) and fsync(2).
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(name, flags, 0o644, dir_fd=directory)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        if durable:
            os.fsync(descriptor)


def sizes_in(directory: int) -> dict[str, int]:
    """Return the names in an open directory with their bytes; what vanishes meanwhile is left out."""
    sizes = {}
    with os.scandir(directory) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                sizes[entry.name] = entry.stat(follow_symlinks=False).st_size
    return sizes
