"""Whether an image at a registry is what its digest says: every blob of it is read again.

For images that airfreight did not make, which have no list of files: their own digests are all that is known of them.
Image manifests and indexes are compared as they are read, so every digest in them is right if the topmost is.

    wrong    sha256:9f2c… has sha256:71d0…
    wrong    sha256:9f2c… has 12 bytes, the image says 643
    missing  sha256:41ab…
"""

from __future__ import annotations

from dataclasses import dataclass

from airfreight.errors import IntegrityError
from airfreight.progress import Progress
from airfreight.reading import for_each
from airfreight.retry import Patience
from airfreight.stores.oci.contents import Blob, Contents, Reading, contents
from airfreight.stores.oci.reference import OciImage
from airfreight.stores.oci.registry import Repository
from airfreight.verify import Finding, Found


@dataclass(frozen=True)
class ImageCheck(Found):
    """What was found; the path of a finding is a digest.

    Attributes:
        image: by its digest.
        contents: what it consists of.
        findings: sorted by digest; empty where all is well.
        read_bytes: bytes that were read again.
    """

    image: OciImage
    contents: Contents
    findings: tuple[Finding, ...]
    read_bytes: int

    def result(self) -> dict[str, object]:
        """Return the fields of a command's result."""
        return {
            "artifact": str(self.image),
            "source": None,
            "manifest_sha256": None,
            "files": None,
            "blobs": len(self.contents.blobs),
            "size_bytes": self.contents.size,
            "read_bytes": self.read_bytes,
            "wrong": self.paths("wrong"),
            "missing": self.paths("missing"),
            "extra": [],
        }

    def check(self) -> None:
        """Return if all is well.

        Raises:
            IntegrityError: it is not; one sentence that counts.
        """
        if self.findings:
            counts = self.counts("wrong", "missing")
            raise IntegrityError(
                f"{self.image} is not what its digest says of {len(self.contents.blobs)} blobs ({counts}): remove the "
                "image, have the registry's disks checked, and copy it there again."
            )


def check_image(source: Repository, reference: str, patience: Patience, progress: Progress) -> ImageCheck:
    """Read every blob of an image, or of an index and its images, and compare it with its digest.

    Args:
        reference: tag or digest; a tag is looked up once.
        patience: how often a broken read goes on, and the deadline of the whole.
        progress: told of the bytes.
    Raises:
        RequestError: there is no such image, or it may not be read.
        IntegrityError: an image manifest or index has another digest than it is named by.
        TemporaryError: it cannot be read now.
    """
    found = contents(source, reference, patience)
    progress.start(len(found.blobs), found.size, 0, 0, called="blobs")

    def look(blob: Blob, patience: Patience) -> tuple[Finding | None, int]:
        size = patience.call(lambda: source.blob_size(blob.digest))
        if size is None:
            return Finding("missing", blob.digest), 0
        if size != blob.size:
            return Finding("wrong", blob.digest, f"has {size} bytes, the image says {blob.size}"), 0
        reading = Reading()
        for _ in reading.chunks(source, blob, patience, progress.moved):
            pass
        progress.file_done()
        right = reading.digest == blob.digest
        return None if right else Finding("wrong", blob.digest, f"has {reading.digest}"), reading.count

    answers = for_each(sorted(found.blobs, key=lambda blob: (-blob.size, blob.digest)), look, patience, progress)
    findings = sorted((finding for finding, _ in answers if finding), key=lambda finding: finding.path)
    return ImageCheck(source.image.at(found.top.digest), found, tuple(findings), sum(count for _, count in answers))
