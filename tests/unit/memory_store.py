"""A source and a store in memory: the smallest things that keep the promises of `airfreight.transfer`, for its tests.

Stand-ins that fail are made by wrapping one of these and breaking one method.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

from airfreight.checkpoint import ChangedError, Part, Stored
from airfreight.errors import AirfreightError, RequestError
from airfreight.leases import Claim, Leases, Tenure
from airfreight.manifest import Manifest, ManifestFile
from airfreight.transfer import refuse_other

COMMIT = "41ab6c1b1c1f6d3a4f3f2b0f7a3d9c5e8b7a6f50"


def lfs(path: str, content: bytes) -> ManifestFile:
    """Describe a file as the hub describes one in LFS."""
    return ManifestFile(path=path, size=len(content), sha256=hashlib.sha256(content).hexdigest())


def small(path: str, content: bytes) -> ManifestFile:
    """Describe a file as the hub describes one in git."""
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False)
    return ManifestFile(path=path, size=len(content), git_blob_id=blob.hexdigest())


def describe(contents: Mapping[str, bytes], commit: str = COMMIT) -> Manifest:
    """Return the manifest of these contents: weights by sha256, the rest by git blob id."""
    files = [(lfs if path.endswith(".safetensors") else small)(path, data) for path, data in contents.items()]
    return Manifest.of(f"hf://acme/pong@{commit}", "acme/pong", commit, files)


@dataclass
class MemorySource:
    """Serves `contents`, whose manifest may be that of other contents (then it is a lying source)."""

    contents: Mapping[str, bytes]
    described: Manifest | None = None
    chunk: int = 1000
    opened: list[tuple[str, int]] = field(default_factory=list)
    server: str = "the hub, or a mirror or proxy before it,"

    def manifest(self) -> Manifest:
        return self.described or describe(self.contents)

    def open(self, file: ManifestFile, offset: int = 0) -> Generator[bytes, None, None]:
        self.opened.append((file.path, offset))
        content = self.contents[file.path]
        for start in range(offset, len(content), self.chunk):
            yield content[start : start + self.chunk]


@dataclass
class MemoryShelf:
    """Checkpoints in a dictionary; `now` is the store's own clock, which tests set."""

    objects: dict[str, tuple[bytes, int, float]] = field(default_factory=dict)
    now: float = 0.0
    writes: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def read(self, name: str) -> Stored | None:
        with self.lock:
            if name not in self.objects:
                return None
            data, tag, written = self.objects[name]
            return Stored(data, str(tag), self.now - written)

    def write(self, name: str, data: bytes, tag: str | None) -> str:
        with self.lock:
            there = self.objects.get(name)
            if (str(there[1]) if there else None) != tag:
                raise ChangedError
            self.writes += 1
            self.objects[name] = (data, self.writes, self.now)
            return str(self.writes)

    def remove(self, name: str, tag: str) -> None:
        with self.lock:
            if name in self.objects and str(self.objects[name][1]) == tag:
                del self.objects[name]

    def names(self) -> list[str]:
        with self.lock:
            return sorted(self.objects)


@dataclass
class MemoryStore:
    """Holds objects in a dictionary; `exists=False` is a bucket that was never made.

    Another run on the same store, or the next one after a kill, is `store.run()`: it shares everything but the lease.
    """

    artifact: str = "memory://models/acme/pong/41ab6c1b1c1f/"
    part_size: int = 4096
    parallel: int = 1
    exists: bool = True
    objects: dict[str, tuple[bytes, str]] = field(default_factory=dict)
    sealed_with: list[Manifest] = field(default_factory=list)
    uploads: list[MemoryUpload] = field(default_factory=list)
    begun: dict[str, bytearray] = field(default_factory=dict)
    versions: list[MemoryStore] = field(default_factory=list)
    shelf: MemoryShelf = field(default_factory=MemoryShelf)
    tenure: Tenure = field(default_factory=Tenure)
    prepared: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.leases = Leases(self.artifact, self.shelf, self.tenure, clock=lambda: self.shelf.now)

    def run(self, tenure: Tenure | None = None) -> Self:
        """Return the same store as another process sees it."""
        return replace(self, tenure=tenure or Tenure(), uploads=[])

    @property
    def manifest(self) -> Manifest | None:
        """What it was sealed with."""
        return self.sealed_with[0] if self.sealed_with else None

    @manifest.setter
    def manifest(self, manifest: Manifest | None) -> None:
        self.sealed_with[:] = [] if manifest is None else [manifest]

    def sealed(self) -> Manifest | None:
        if not self.exists:
            raise RequestError("There is no such place.")
        return self.manifest

    def bundles(self, files: Sequence[ManifestFile]) -> list[tuple[ManifestFile, ...]]:
        return [(file,) for file in files]

    def held(self, files: Sequence[ManifestFile]) -> frozenset[str]:
        def good(file: ManifestFile) -> bool:
            content, digest = self.objects.get(file.path, (b"", ""))
            return len(content) == file.size and digest == file.digest

        return frozenset(file.path for file in files if good(file))

    def elsewhere(self, files: Sequence[ManifestFile]) -> frozenset[str]:
        return frozenset(file.path for file in files if self._twin(file) is not None)

    def reuse(self, file: ManifestFile) -> bool:
        twin = self._twin(file)
        if twin is not None:
            self.objects[file.path] = twin
        return twin is not None

    def _twin(self, file: ManifestFile) -> tuple[bytes, str] | None:
        for version in self.versions:
            for other in version.manifest.files if version.manifest else ():
                if (other.digest, other.size) == (file.digest, file.size) and version.held([other]):
                    return version.objects[other.path]
        return None

    def prepare(self, files: Sequence[ManifestFile]) -> None:
        self.prepared += 1

    def begin(self, file: ManifestFile) -> MemoryUpload:
        upload = MemoryUpload(self, file, self.leases.claim(file))
        with self.lock:
            self.uploads.append(upload)
        return upload

    def seal(self, manifest: Manifest) -> str:
        with self.lock:
            if self.manifest is None:
                self.manifest = manifest
        refuse_other(self.artifact, self.manifest, manifest)
        return self.artifact

    def renew(self) -> None:
        self.leases.renew()

    def tidy(self, files: Sequence[ManifestFile]) -> None:
        for claim in self.leases.leftovers(files):
            claim.drop(lambda path=claim.checkpoint.path: self.begun.pop(path, None))  # type: ignore[misc]

    @property
    def unfinished(self) -> list[str]:
        """Paths of what this run began and neither committed nor aborted nor let go."""
        return [upload.file.path for upload in self.uploads if upload.state_of == "open"]

    @property
    def left(self) -> tuple[list[str], list[str]]:
        """Names of checkpoints, and paths with bytes of unfinished uploads."""
        return self.shelf.names(), sorted(self.begun)


class MemoryUpload:
    """One file on its way into a `MemoryStore`; `sent` are the parts of this run."""

    def __init__(self, store: MemoryStore, file: ManifestFile, claim: Claim) -> None:
        self.store = store
        self.file = file
        self.sent: list[bytes] = []
        self.state_of = "open"
        self._claim = claim
        self.part_size = store.part_size
        self.parallel = store.parallel
        self._came: dict[int, tuple[bytes, str | None]] = {}
        self._lock = threading.Lock()
        self.offset = claim.checkpoint.offset
        self.state = claim.checkpoint.state
        store.begun[file.path] = store.begun.get(file.path, bytearray())[: self.offset]

    def write(self, part: bytearray | memoryview, state: str | None, at: int) -> None:
        self._claim.record()  # an owner that lost its lease must not add to what another adds to
        with self._lock:
            assert self.parallel > 1 or at == self._claim.checkpoint.offset
            self.sent.append(bytes(part))
            self._came[at] = (bytes(part), state)
            content, before = self.store.begun[self.file.path], self._claim.checkpoint
            parts, last = list(before.parts), before.state
            del content[before.offset :]
            while len(content) in self._came:  # the hash can only be taken up again where no part is missing
                data, last = self._came[len(content)]
                content += data
                parts.append(Part("", len(data), ""))
            self._claim.record(parts=tuple(parts), state=last)

    def commit(self) -> None:
        if self.state_of != "committed":
            content = bytes(self.store.begun.pop(self.file.path))
            with self.store.lock:
                self.store.objects[self.file.path] = (content, self.file.digest)
            self.state_of = "committed"
        self._claim.done()

    def release(self) -> None:
        with contextlib.suppress(AirfreightError):
            self._claim.release()
        if self.state_of == "open":
            self.state_of = "released"

    def abort(self) -> None:
        with contextlib.suppress(AirfreightError):
            self._claim.drop(lambda: self.store.begun.pop(self.file.path, None))
        if self.state_of == "open":
            self.state_of = "aborted"
