"""A directory as a source: one model, delivered by Airfreight or put there by anybody.

What is taken: regular files, at any depth, and links to regular files of the same directory. What is refused, by name:
links that lead out of it, links to directories and to nothing, and what is no file at all (pipes, sockets, devices).
Directories that hold nothing do not count.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Generator, Iterator, Mapping

from airfreight.errors import IntegrityError, RequestError
from airfreight.manifest import MANIFEST_NAME, Manifest
from airfreight.reading import Entry, is_reserved
from airfreight.source import DirectoryRoot
from airfreight.stores.files import open_regular, opened_directory, read_small, translated

CHUNK = 1024 * 1024
MANIFEST_LIMIT = 256 * 1024 * 1024  # bytes; 100,000 files take about 20 MB


class DirectoryFolder:
    """The files below one directory (a `Folder`)."""

    def __init__(self, place: DirectoryRoot) -> None:
        self._place = place

    @property
    def root(self) -> DirectoryRoot:
        """`file:///directory/`, with its slash."""
        return self._place

    def recorded(self) -> Manifest | None:
        """See `Folder.recorded`."""
        with translated(str(self._place)), opened_directory(self._place.path) as directory:
            data = read_small(directory, MANIFEST_NAME, MANIFEST_LIMIT)
        if data is None:
            return None
        try:
            return Manifest.from_json(data)
        except ValueError as error:
            raise RequestError(
                f"{self._place}{MANIFEST_NAME} is not a manifest of airfreight ({error}): "
                "take it out, or give another address."
            ) from error

    def listing(self) -> Mapping[str, Entry]:
        """See `Folder.listing`. Reads every directory, and no file."""
        with translated(str(self._place)):
            real = os.path.realpath(self._place.path, strict=True)
            return {path: entry for path, entry in _walk(real) if not is_reserved(path)}

    def read(self, path: str, size: int, offset: int = 0) -> Generator[bytes, None, None]:
        """See `Folder.read`."""
        with translated(f"{self._place}{path}"):
            real = os.path.realpath(self._place.path, strict=True)
            target = os.path.realpath(f"{real}/{path}", strict=True)
            if not _is_below(target, real):
                raise RequestError(f"{self._place}{path} is a link that leads out of the directory: take it out.")
            with os.fdopen(open_regular(target), "rb", buffering=0) as file:
                self._check_size(path, size, os.fstat(file.fileno()).st_size)
                file.seek(offset)
                while offset < size:
                    chunk = file.read(min(CHUNK, size - offset))
                    if not chunk:
                        self._check_size(path, size, offset)
                    offset += len(chunk)
                    yield chunk

    def _check_size(self, path: str, size: int, found: int) -> None:
        if found != size:
            raise IntegrityError(
                f"{self._place}{path} has {found} bytes where {size} were expected; nothing was published: the source "
                "is damaged, or somebody changes it; repair it and start again."
            )


def _walk(real: str) -> Iterator[tuple[str, Entry]]:
    """Yield every entry below a real path that is not a directory, by its relative path."""
    directories = [""]
    while directories:
        prefix = directories.pop()
        with os.scandir(f"{real}/{prefix}") as entries:
            for entry in entries:
                path = prefix + entry.name
                if entry.is_dir(follow_symlinks=False):
                    directories.append(f"{path}/")
                else:
                    yield path, _look(entry, real)


def _look(entry: os.DirEntry[str], real: str) -> Entry:
    try:
        entry.name.encode()
    except UnicodeEncodeError:
        return Entry(0, "has a name that is not UTF-8")
    if entry.is_symlink():
        try:
            target = os.path.realpath(entry.path, strict=True)
        except OSError:
            return Entry(0, "is a link to nothing")
        if not _is_below(target, real):
            return Entry(0, "is a link that leads out of the directory")
    status = entry.stat()
    if stat.S_ISDIR(status.st_mode):
        return Entry(0, "is a link to a directory")
    if not stat.S_ISREG(status.st_mode):
        return Entry(0, "is no regular file")
    return Entry(status.st_size)


def _is_below(path: str, directory: str) -> bool:
    return path.startswith(directory.rstrip("/") + "/")
