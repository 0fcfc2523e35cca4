"""Image manifests and indexes as a registry keeps them. They are called documents, because a manifest is our list of
files.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property

from airfreight.stores.oci.answers import Answer

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
MANIFESTS = (OCI_MANIFEST, DOCKER_MANIFEST)
INDEXES = (OCI_INDEX, DOCKER_INDEX)
DOCUMENT_LIMIT = 4 * 1024 * 1024  # bytes; what registries must take at least, and most take no more (spec.md, v1.1)


@dataclass(frozen=True)
class Descriptor:
    """What a registry says of a document, without its content.

    Attributes:
        media_type: of the document, without parameters.
        digest: `sha256:<64 hex>`.
        size: bytes.
    """

    media_type: str
    digest: str
    size: int


@dataclass(frozen=True)
class Document:
    """An image manifest or an index, exactly as it is stored: its digest is that of these bytes."""

    media_type: str
    data: bytes

    @cached_property
    def digest(self) -> str:
        """`sha256:<64 hex>` of `data`."""
        return f"sha256:{hashlib.sha256(self.data).hexdigest()}"

    @property
    def is_index(self) -> bool:
        """Whether it lists images instead of being one."""
        return self.media_type in INDEXES


def media_type_of(answer: Answer) -> str:
    """Return the kind of a document: what the header says, else what stands in it."""
    named: str = answer.headers.get("Content-Type", "").partition(";")[0].strip()
    if named in {"", "application/json", "application/octet-stream", "text/plain"}:
        try:
            named = str(json.loads(answer.body).get("mediaType") or named)
        except (ValueError, AttributeError):
            return named
    return named
