"""Whether an artifact is what its airfreight.json says: every byte is read again.

    wrong    model-2.safetensors has sha256 9f2c…, the manifest says 71d0…
    wrong    config.json has 12 bytes, the manifest says 643
    missing  tokenizer.json
    extra    notes.txt

An image that airfreight did not make has no airfreight.json: see `stores.oci.image_check`.

Nothing is repaired here, and nothing of what a store says of itself is believed: not its checksums, not the digests it
recorded. Memory: one chunk per file under way, and the names of the files.
"""

from __future__ import annotations

from dataclasses import dataclass

from airfreight.errors import IntegrityError, RequestError
from airfreight.manifest import MANIFEST_NAME, Manifest, ManifestFile
from airfreight.progress import Progress
from airfreight.reading import Entry, Folder, for_each, read_through
from airfreight.retry import Patience


@dataclass(frozen=True)
class Finding:
    """One file that is not as the manifest says.

    Attributes:
        kind: `wrong`, `missing` or `extra`.
        path: relative to the artifact.
        reason: what is wrong, to follow the path in a sentence; empty where the kind says it all.
    """

    kind: str
    path: str
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.kind:<8} {self.path}{' ' if self.reason else ''}{self.reason}"


class Found:
    """What a reading found wrong, by its kind."""

    findings: tuple[Finding, ...]

    def paths(self, kind: str) -> list[str]:
        """Return the paths of one kind of finding."""
        return [finding.path for finding in self.findings if finding.kind == kind]

    def counts(self, *kinds: str) -> str:
        """Return how many there are of some kinds, as "1 wrong, 0 missing"."""
        return ", ".join(f"{len(self.paths(kind))} {kind}" for kind in kinds)


@dataclass(frozen=True)
class Verification(Found):
    """What was found.

    Attributes:
        artifact: its address.
        manifest: what it should be.
        findings: sorted by path; empty where all is well.
        read_bytes: bytes that were read again.
    """

    artifact: str
    manifest: Manifest
    findings: tuple[Finding, ...]
    read_bytes: int

    def result(self) -> dict[str, object]:
        """Return the fields of a command's result."""
        return {
            "artifact": self.artifact,
            "source": self.manifest.source,
            "manifest_sha256": self.manifest.sha256,
            "files": len(self.manifest.files),
            "size_bytes": self.manifest.size,
            "read_bytes": self.read_bytes,
            **{kind: self.paths(kind) for kind in ("wrong", "missing", "extra")},
        }

    def check(self) -> None:
        """Return if all is well.

        Raises:
            IntegrityError: it is not; one sentence that counts.
        """
        if self.findings:
            counts = self.counts("wrong", "missing", "extra")
            remedy = "take out the files named above"
            if self.artifact.startswith("oci://"):
                remedy = "remove the image, have the registry's disks checked,"
            raise IntegrityError(
                f"{self.artifact} is not what its {MANIFEST_NAME} says of {len(self.manifest.files)} files ({counts}): "
                f"{remedy} and copy {self.manifest.source} there again."
            )


def verify(folder: Folder, patience: Patience | None = None, progress: Progress | None = None) -> Verification:
    """Read every byte of an artifact again and compare it with its manifest.

    Args:
        patience: how often a broken read goes on, and the deadline of the whole.
        progress: told of the bytes; None prints nothing.
    Raises:
        RequestError: there is no airfreight.json, or access is missing.
        TemporaryError: it cannot be read now.
    """
    patience, progress = patience or Patience(), progress or Progress(write=lambda _: None)
    manifest = patience.call(folder.recorded)
    if manifest is None:
        raise RequestError(
            f"{folder.root} holds no {MANIFEST_NAME}, so nothing was delivered there: give the address of one version, "
            "as `airfreight copy` prints it, and finish the copy first."
        )
    entries = patience.call(folder.listing)
    found = [finding for file in manifest.files if (finding := _at_a_glance(file, entries.get(file.path)))]
    doubtful = {finding.path for finding in found}
    readable = [file for file in manifest.files if file.path not in doubtful]
    readable.sort(key=lambda file: (-file.size, file.path))
    size = sum(file.size for file in readable)
    progress.start(len(readable), size, 0, 0)

    def look(file: ManifestFile, patience: Patience) -> Finding | None:
        try:
            digest = read_through(folder, file, patience, progress)
        except IntegrityError:
            return Finding("wrong", file.path, "has another size than a moment ago")
        if digest == file.digest:
            return None
        return Finding("wrong", file.path, f"has {file.digest_name} {digest}, the manifest says {file.digest}")

    found += [finding for finding in for_each(readable, look, patience, progress) if finding]
    listed = {file.path for file in manifest.files}
    found += [Finding("extra", path, entry.problem) for path, entry in entries.items() if path not in listed]
    return Verification(str(folder.root), manifest, tuple(sorted(found, key=lambda finding: finding.path)), size)


def _at_a_glance(file: ManifestFile, entry: Entry | None) -> Finding | None:
    """Return what is wrong with a file before it is read, or None."""
    if entry is None:
        return Finding("missing", file.path)
    if entry.problem:
        return Finding("wrong", file.path, entry.problem)
    if entry.size != file.size:
        return Finding("wrong", file.path, f"has {entry.size} bytes, the manifest says {file.size}")
    return None
