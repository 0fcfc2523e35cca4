"""What a tag of a repository stands for already: which model, on which base, in which layers.

HEAD manifests/{tag}           nothing there: nothing was delivered
GET  manifests/{tag}           its annotations (see `image`); of an index, those of its first image
GET  blobs/{last layer}        models/airfreight.json
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from airfreight.errors import RequestError
from airfreight.manifest import MANIFEST_NAME, Manifest
from airfreight.stores.oci.image import BASE, MANIFEST_SHA256, RECIPE_NAME
from airfreight.stores.oci.layers import RECIPE, TOP
from airfreight.stores.oci.records import Note, notes_of, one_image
from airfreight.stores.oci.registry import Repository

MANIFEST_LIMIT = 256 * 1024 * 1024  # bytes; 100,000 files take about 20 MB


@dataclass(frozen=True)
class SealedImage:
    """A delivered version.

    Attributes:
        digest: of what the tag stands for.
        manifest: of the model.
        base: digest of what it was built on, None for nothing.
        notes: its layers by key, where our recipe wrote them.
        others: descriptors of its layers, where another did, as buildah's.
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
    return SealedImage(
        digest=document.digest,
        manifest=manifest,
        base=annotations.get(BASE),
        notes=dict(notes_of(image, repository.image.name)),
        others=() if annotations.get(RECIPE_NAME) == RECIPE else tuple(image.get("layers", ())),
    )


def _manifest_in(repository: Repository, tag: str, image: Mapping[str, Any]) -> Manifest:
    last = (image.get("layers") or [{}])[-1]
    try:
        data = repository.read_blob(str(last.get("digest")), MANIFEST_LIMIT)
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            member = archive.extractfile(TOP + MANIFEST_NAME)
            return Manifest.from_json(member.read() if member is not None else b"")
    except (ValueError, KeyError, tarfile.TarError) as error:
        raise RequestError(
            f"{repository.image.at(tag)} holds no {MANIFEST_NAME} of airfreight in its last layer: remove the tag if "
            "nobody needs it, or give another one."
        ) from error
