"""A source and a store in memory: the smallest things that keep the promises of `airfreight.transfer`, for its tests.

Stand-ins that fail are made by wrapping one of these and breaking one method.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field

from airfreight.errors import RequestError
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

    def manifest(self) -> Manifest:
        return self.described or describe(self.contents)

    def open(self, file: ManifestFile, offset: int = 0) -> Generator[bytes, None, None]:
        self.opened.append((file.path, offset))
        content = self.contents[file.path]
        for start in range(offset, len(content), self.chunk):
            yield content[start : start + self.chunk]


@dataclass
class MemoryStore:
    """Holds objects in a dictionary; `exists=False` is a bucket that was never made."""

    artifact: str = "memory://models/acme/pong/41ab6c1b1c1f/"
    part_size: int = 4096
    exists: bool = True
    objects: dict[str, tuple[bytes, str]] = field(default_factory=dict)
    manifest: Manifest | None = None
    uploads: list[MemoryUpload] = field(default_factory=list)
    prepared: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def sealed(self) -> Manifest | None:
        if not self.exists:
            raise RequestError("There is no such place.")
        return self.manifest

    def held(self, files: Sequence[ManifestFile]) -> frozenset[str]:
        def good(file: ManifestFile) -> bool:
            content, digest = self.objects.get(file.path, (b"", ""))
            return len(content) == file.size and digest == file.digest

        return frozenset(file.path for file in files if good(file))

    def prepare(self, files: Sequence[ManifestFile]) -> None:
        self.prepared += 1

    def begin(self, file: ManifestFile) -> MemoryUpload:
        upload = MemoryUpload(self, file)
        with self.lock:
            self.uploads.append(upload)
        return upload

    def seal(self, manifest: Manifest) -> str:
        with self.lock:
            if self.manifest is None:
                self.manifest = manifest
        refuse_other(self.artifact, self.manifest, manifest)
        return self.artifact

    @property
    def unfinished(self) -> list[str]:
        """Paths of uploads that were neither committed nor aborted."""
        return [upload.file.path for upload in self.uploads if upload.state == "open"]


@dataclass
class MemoryUpload:
    """One file on its way into a `MemoryStore`."""

    store: MemoryStore
    file: ManifestFile
    parts: list[bytes] = field(default_factory=list)
    state: str = "open"

    @property
    def part_size(self) -> int:
        return self.store.part_size

    def write(self, part: bytearray) -> None:
        self.parts.append(bytes(part))

    def commit(self) -> None:
        with self.store.lock:
            self.store.objects[self.file.path] = (b"".join(self.parts), self.file.digest)
        self.state = "committed"

    def abort(self) -> None:
        if self.state == "open":
            self.state = "aborted"
