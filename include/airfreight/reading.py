"""Reading files through, once: what `verify` and sources without a manifest have in common.

A `Folder` is a place whose files can be read: an S3 prefix, a directory. Its files are hashed as they stream by,
several at a time; a broken read goes on at its byte offset with the state of the hash kept. Memory: one chunk per file
under way.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass, replace
from threading import Event
from typing import Protocol, TypeVar, runtime_checkable

from airfreight.errors import RequestError, TemporaryError
from airfreight.manifest import MANIFEST_NAME, RESERVED_DIRECTORY, Manifest, ManifestFile
from airfreight.patterns import Patterns
from airfreight.prechecks import Facts
from airfreight.progress import Progress
from airfreight.retry import Attempts, Patience
from airfreight.source import Place, repo_id_of

FILES_AT_ONCE = 4
PROGRESS_BYTES = 8 * 1024 * 1024  # a read that got this far since its last failure may fail as often again
ALL_FILES = Patterns()
UNKNOWN = "0" * 64  # stands for a sha256 until the file was read
TICK = 1.0  # seconds between looks at the progress

Item = TypeVar("Item")
Answer = TypeVar("Answer")


@dataclass(frozen=True, order=True)
class Entry:
    """One thing that lies in a folder.

    Attributes:
        size: bytes; 0 where `problem` is set.
        problem: why it cannot be read as a file of a model, to follow its path in a sentence; empty if it can.
    """

    size: int
    problem: str = ""


class Folder(Protocol):
    """A place that holds files. Methods may be called from any thread."""

    @property
    def root(self) -> Place:
        """Address of this place."""
        ...

    def recorded(self) -> Manifest | None:
        """Return what its airfreight.json says, None where there is none.

        Raises:
            RequestError: it is no manifest, the place does not exist, or access is refused.
            TemporaryError: it cannot be reached now.
        """
        ...

    def listing(self) -> Mapping[str, Entry]:
        """Return what lies here by relative path, without airfreight.json and without the reserved directory.

        Raises:
            RequestError, TemporaryError: as `recorded`.
        """
        ...

    def read(self, path: str, size: int, offset: int = 0) -> Generator[bytes, None, None]:
        """Yield the bytes of one file from `offset` to its end, in chunks of 1 byte to 8 MiB.

        Raises:
            RequestError: the file is gone or access is refused.
            IntegrityError: it has another size than `size`.
            TemporaryError: a broken read.
        """
        ...


@runtime_checkable
class Digested(Protocol):
    """A folder that knows the digests of files from its listing, because it read and verified them then."""

    def digests(self) -> Mapping[str, str]:
        """Return the sha256, in hex, of the files for which it is known, by relative path."""
        ...


def manifest_of(
    folder: Folder,
    known: dict[str, ManifestFile],
    patience: Patience,
    progress: Progress | None = None,
    patterns: Patterns = ALL_FILES,
) -> Manifest:
    """Return the identity of what lies in a folder: its airfreight.json, else the sha256 of every file, read once.

    Args:
        known: files read before, by path; filled here, so that a call after a failure goes on where it stopped.
        patterns: which files are wanted; only those are read.
    Raises:
        RequestError: nothing is there, something is no plain file, a path is unsafe, or the address names no model.
        IntegrityError: a file changed while it was read.
        TemporaryError: it cannot be read now.
    """
    recorded = folder.recorded()
    if recorded is not None:
        return patterns.narrow(recorded)
    blank = patterns.narrow(_unread(folder))
    digests = folder.digests() if isinstance(folder, Digested) else {}
    known |= {file.path: replace(file, sha256=digests[file.path]) for file in blank.files if file.path in digests}
    missing = [file for file in blank.files if file.path not in known or known[file.path].size != file.size]
    progress = progress or Progress(write=lambda _: None)
    left = sum(file.size for file in missing)
    progress.start(len(blank.files), blank.size, len(blank.files) - len(missing), blank.size - left)

    def describe(file: ManifestFile, patience: Patience) -> None:
        digest = read_through(folder, file, patience, progress)
        known[file.path] = replace(file, sha256=digest)

    for_each(sorted(missing, key=lambda file: (-file.size, file.path)), describe, patience, progress)
    return replace(blank, files=tuple(known[file.path] for file in blank.files))


def _unread(folder: Folder) -> Manifest:
    """Return what lies in a folder as a manifest whose digests are still to be found out."""
    repo_id = repo_id_of(folder.root)
    entries = sorted((path, entry) for path, entry in folder.listing().items() if not _is_of_tools(path))
    for path, entry in entries:
        if entry.problem:
            slash = "" if str(folder.root).endswith("/") else "/"  # an image's address has none at its end
            raise RequestError(
                f"{folder.root}{slash}{path} {entry.problem}: put the file itself there, or take it out."
            )
    if not entries:
        raise RequestError(f"{folder.root} holds no files: put the model there first, or check the address.")
    return Manifest.of(
        str(folder.root), repo_id, None, [ManifestFile(path, entry.size, sha256=UNKNOWN) for path, entry in entries]
    )


def _is_of_tools(path: str) -> bool:
    """Whether git or `hf download --local-dir` keep their own accounts there.

    What huggingface_hub leaves out of uploads (2.4, utils/_paths.py, DEFAULT_IGNORE_PATTERNS); they differ on every
    machine, so with them the same model would have another identity each time.
    """
    directories = f"/{path}".rpartition("/")[0] + "/"
    return "/.git/" in directories or "/.cache/huggingface/" in directories


def read_through(folder: Folder, file: ManifestFile, patience: Patience, progress: Progress) -> str:
    """Read one file to its end and return its digest, of the kind that `file` has, in hex.

    Raises:
        RequestError, IntegrityError: as `Folder.read`.
        TemporaryError: what did not heal in time.
    """
    hasher = file.hasher()
    offset = credit = 0
    attempts = Attempts(patience)
    while True:
        try:
            with closing(folder.read(file.path, file.size, offset)) as chunks:
                for chunk in chunks:
                    patience.check()
                    hasher.update(chunk)
                    offset += len(chunk)
                    credit += len(chunk)
                    progress.moved(len(chunk))
            progress.file_done()
            return hasher.hexdigest()
        except TemporaryError as error:
            if credit >= PROGRESS_BYTES:
                attempts.reset()
            credit = 0
            attempts.wait_after(error)


def for_each(
    items: Sequence[Item], work: Callable[[Item, Patience], Answer], patience: Patience, progress: Progress
) -> list[Answer]:
    """Do `work` for each item, several at a time, and return the answers in order; the first failure ends all."""
    patience = replace(patience, stop=Event())
    with ThreadPoolExecutor(max_workers=FILES_AT_ONCE, thread_name_prefix="airfreight-read") as pool:
        futures = [pool.submit(work, item, patience) for item in items]
        try:
            pending = set(futures)
            while pending:
                done, pending = wait(pending, timeout=TICK, return_when=FIRST_EXCEPTION)
                for future in done:
                    future.result()
                progress.tick()
        except BaseException:
            patience.stop.set()
            for future in futures:
                future.cancel()
            raise
    return [future.result() for future in futures]


class FolderSource:
    """A folder as a `Source`: its manifest is resolved once, then its files are opened.

    Args:
        folder: where the files lie.
        patience: how often a broken read goes on, and the deadline of the whole, where all is read once.
        progress: told of that reading.
        patterns: which files are wanted.
    """

    def __init__(
        self,
        folder: Folder,
        patience: Patience | None = None,
        progress: Progress | None = None,
        patterns: Patterns = ALL_FILES,
    ) -> None:
        self._folder = folder
        self._patience = patience or Patience()
        self._progress = progress
        self._patterns = patterns
        self._known: dict[str, ManifestFile] = {}
        self._manifest: Manifest | None = None

    def manifest(self) -> Manifest:
        """See `manifest_of`; the same object on every call."""
        if self._manifest is None:
            self._manifest = manifest_of(self._folder, self._known, self._patience, self._progress, self._patterns)
        return self._manifest

    def facts(self) -> Facts:
        """Return what is known beside the files: nothing, for no licence is declared in a folder."""
        return Facts()

    @property
    def server(self) -> str:
        """See `Source.server`: the place the files are read from, wherever they were published first."""
        root = str(self._folder.root)
        kind = {"s3": "the bucket", "oci": "the registry", "file": "the disk"}[root.partition(":")[0]]
        return f"{kind} behind {root}"

    def open(self, file: ManifestFile, offset: int = 0) -> Generator[bytes, None, None]:
        """See `Folder.read`."""
        return self._folder.read(file.path, file.size, offset)


def is_reserved(path: str) -> bool:
    """Whether a relative path is one of ours and not the model's."""
    return path == MANIFEST_NAME or path.partition("/")[0] == RESERVED_DIRECTORY
