"""A store in memory whose unit is larger than a file, as the layer of an image is: small files travel together.

The bytes of a bundle are one growing row under one lease; nothing of it is visible before its last file is committed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Self

from airfreight.checkpoint import Part
from airfreight.errors import AirfreightError
from airfreight.leases import Claim, Tenure
from airfreight.manifest import ManifestFile
from airfreight.retry import LostError
from tests.unit.memory_store import MemoryStore

Bundle = tuple[ManifestFile, ...]


@dataclass
class BundleStore(MemoryStore):
    """`losses` says before which writes and commits, by number, the server forgets what was written."""

    losses: set[int] = field(default_factory=set)
    asked: int = 0
    events: list[tuple[str, str]] = field(default_factory=list)
    rows: dict[Bundle, bytearray] = field(default_factory=dict)
    claims: dict[Bundle, Claim] = field(default_factory=dict)
    known: dict[ManifestFile, Bundle] = field(default_factory=dict)

    def run(self, tenure: Tenure | None = None) -> Self:
        return replace(super().run(tenure), claims={}, events=[])

    def bundles(self, files: Sequence[ManifestFile]) -> list[Bundle]:
        """Weights alone, the others together, in the order of their names."""
        alone = [(file,) for file in files if file.path.endswith(".safetensors")]
        together = tuple(
            sorted((file for file in files if not file.path.endswith(".safetensors")), key=lambda file: file.path)
        )
        bundles = [*alone, together] if together else list(alone)
        for bundle in bundles:
            for file in bundle:
                self.known.setdefault(file, bundle)
        return bundles

    def begin(self, file: ManifestFile) -> BundleUpload:  # type: ignore[override]
        bundle = self.known.get(file, (file,))
        if file == bundle[0]:
            self.claims[bundle] = self.leases.claim(file)
        self.events.append(("begin", file.path))
        return BundleUpload(self, file, bundle, self.claims[bundle])

    def tidy(self, files: Sequence[ManifestFile]) -> None:
        for claim in self.leases.leftovers(files):
            claim.drop(lambda path=claim.checkpoint.path: self._forget(path))  # type: ignore[misc]

    def _forget(self, path: str) -> None:
        for bundle in [bundle for bundle in self.rows if bundle[0].path == path]:
            del self.rows[bundle]

    def lose(self, bundle: Bundle) -> None:
        """Forget the row if it is time to."""
        with self.lock:
            self.asked += 1
            if self.asked in self.losses:
                self.rows.pop(bundle, None)
                raise LostError("The registry forgot the upload.")

    @property
    def left(self) -> tuple[list[str], list[str]]:
        return self.shelf.names(), sorted(bundle[0].path for bundle in self.rows)


class BundleUpload:
    """One file of a bundle on its way into a `BundleStore`."""

    parallel = 1

    def __init__(self, store: BundleStore, file: ManifestFile, bundle: Bundle, claim: Claim) -> None:
        self.store = store
        self.file = file
        self.bundle = bundle
        self.part_size = store.part_size
        self._claim = claim
        self._start = sum(other.size for other in bundle[: bundle.index(file)])
        there = claim.checkpoint.offset
        if len(store.rows.get(bundle, b"")) < there:  # what the checkpoint tells of was lost
            claim.record(parts=(), state=None)
            there = 0
        store.rows.setdefault(bundle, bytearray())
        del store.rows[bundle][there:]
        self.offset = min(file.size, max(0, there - self._start))
        self.state = file.digest if self.offset == file.size > 0 else claim.checkpoint.state if self.offset else None

    def write(self, part: bytearray | memoryview, state: str | None, at: int) -> None:
        self._claim.record()
        self.store.lose(self.bundle)
        before = self._claim.checkpoint
        assert before.offset == self._start + at == len(self.store.rows[self.bundle])
        self.store.rows[self.bundle] += part
        self._claim.record(parts=(*before.parts, Part("", len(part), "")), state=state)

    def commit(self) -> None:
        self.store.events.append(("commit", self.file.path))
        if self.file != self.bundle[-1] or self.bundle not in self.store.rows:
            return
        self.store.lose(self.bundle)
        row, start = bytes(self.store.rows.pop(self.bundle)), 0
        with self.store.lock:
            for file in self.bundle:
                self.store.objects[file.path] = (row[start : start + file.size], file.digest)
                start += file.size
        self._claim.done()

    def release(self) -> None:
        self.store.events.append(("release", self.file.path))
        with contextlib.suppress(AirfreightError):
            self._claim.release()

    def abort(self) -> None:
        self.store.events.append(("abort", self.file.path))
        with contextlib.suppress(AirfreightError):
            self._claim.drop(lambda: self.store.rows.pop(self.bundle, None))
