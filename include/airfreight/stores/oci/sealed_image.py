"""What a tag of a repository stands for already: which model, on which base, in which layers.

HEAD manifests/{tag}           nothing there: nothing was delivered
GET  manifests/{tag}           its annotations (see `image`); of an index, those of its first image
GET  blobs/{last layer}        models/airfreight.json
HEAD blobs/{layer}             is it there, with the size that the image says?
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from airfreight.errors import RequestError
from airfreight.manifest import MANIFEST_NAME, Manifest
from airfreight.stores.oci.image import BASE, MANIFEST_SHA256
from airfreight.stores.oci.layer_reader import GZIP_MAGIC
from airfreight.stores.oci.layers import TOP, plan
from airfreight.stores.oci.records import CONNECTIONS, Note, notes_of, one_image
from airfreight.stores.oci.registry import Repository
from airfreight.stores.oci.tar_scan import Kind, Scanner

MANIFEST_LIMIT = 256 * 1024 * 1024  # bytes; 100,000 files take about 20 MB


@dataclass(frozen=True)
class SealedImage:
    """A delivered version.

    Attributes:
        digest: of what the tag stands for.
        manifest: of the model.
        base: digest of what it was built on, None for nothing.
        notes: its layers of files by key, where our recipe wrote all of them.
        others: descriptors of its layers, where it did not: buildah's, or ours that another tool packed since.
    """

    digest: str
    manifest: Manifest
    base: str | None
    notes: Mapping[str, Note]
    others: tuple[Mapping[str, Any], ...]


def read_sealed(repository: Repository, tag: str) -> SealedImage | None:
    """Return what a tag stands for, None for nothing.

    Raises:
        RequestError: an image that airfreight did not make, or that somebody changed.
        TemporaryError: the registry cannot be asked now.
    """
    if repository.describe(tag) is None:
        return None
    document = repository.document(tag)
    image = one_image(repository, document)
    annotations = image.get("annotations") or {}
    place = repository.image.at(tag)
    if MANIFEST_SHA256 not in annotations:
        raise RequestError(
            f"{place} is an image that airfreight did not make, and it is not overwritten: give another tag or "
            "repository, or remove it first."
        )
    manifest = _manifest_in(repository, tag, image)
    if manifest.sha256 != annotations[MANIFEST_SHA256]:
        raise RequestError(f"{place} holds another {MANIFEST_NAME} than it says: remove the tag, then copy again.")
    notes = dict(notes_of(image, repository.image.name))
    ours = all(layer.key in notes and notes[layer.key].fits(layer) for layer in plan(manifest.files))
    return SealedImage(
        digest=document.digest,
        manifest=manifest,
        base=annotations.get(BASE),
        notes=notes if ours else {},
        others=() if ours else tuple(image.get("layers", ())),
    )


def is_sound(repository: Repository, image: SealedImage) -> bool:
    """Whether every layer is there, with the size that the image says, so that it can be pulled; one HEAD for each.

    Raises:
        RequestError, TemporaryError: the registry cannot be asked.
    """
    sizes = {note.digest: note.size for note in image.notes.values()}
    sizes |= {layer["digest"]: layer["size"] for layer in image.others}
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        return list(pool.map(repository.blob_size, sizes)) == list(sizes.values())


def _manifest_in(repository: Repository, tag: str, image: Mapping[str, Any]) -> Manifest:
    last = (image.get("layers") or [{}])[-1]
    try:
        data = repository.read_blob(str(last.get("digest")), MANIFEST_LIMIT)
        return Manifest.from_json(_file_in(_unpacked(data), TOP + MANIFEST_NAME))
    except (ValueError, LookupError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise RequestError(
            f"{repository.image.at(tag)} holds no {MANIFEST_NAME} of airfreight in its last layer: remove the tag if "
            "nobody needs it, or give another one."
        ) from error


def _unpacked(data: bytes) -> bytes:
    """Return an archive as it was before a tool packed it; a few bytes of gzip can become many gigabytes.

    Raises:
        ValueError: it has more than `MANIFEST_LIMIT` bytes.
    """
    if not data.startswith(GZIP_MAGIC):
        return data
    with gzip.open(io.BytesIO(data)) as stream:
        plain = stream.read(MANIFEST_LIMIT + 1)
    if len(plain) > MANIFEST_LIMIT:
        raise ValueError(f"it unpacks to more than {MANIFEST_LIMIT} bytes")
    return plain


def _file_in(archive: bytes, path: str) -> bytes:
    """Return the content of a file.

    Raises:
        TarError, LookupError: it is no archive, or holds no such file.
    """
    scanner = Scanner()
    scanner.feed(archive)
    scanner.check_end()
    found = [member for member in scanner.members if member.path == path and member.kind is Kind.FILE]
    if not found:
        raise LookupError(path)
    return archive[found[-1].offset : found[-1].offset + found[-1].size]
