"""What an image or an index in a registry consists of, without reading a blob."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from airfreight.errors import RequestError
from airfreight.retry import Patience
from airfreight.stores.oci.reference import OciImage, is_digest
from airfreight.stores.oci.registry import Document, Repository

NESTING = 4  # an index of indexes of …; more is a trap


@dataclass(frozen=True)
class Blob:
    """A config or layer that an image names.

    Attributes:
        digest: `sha256:<64 hex>`.
        size: bytes.
    """

    digest: str
    size: int


@dataclass(frozen=True)
class Contents:
    """All that an image or index consists of.

    Attributes:
        documents: what is named stands before what names it; the top is last.
        blobs: each once, in the order they are named.
    """

    documents: tuple[Document, ...]
    blobs: tuple[Blob, ...]

    @property
    def top(self) -> Document:
        """What the tag or digest stands for."""
        return self.documents[-1]

    @property
    def size(self) -> int:
        """Bytes of all blobs."""
        return sum(blob.size for blob in self.blobs)


def contents(source: Repository, reference: str, patience: Patience | None = None) -> Contents:
    """Return what an image or index at a registry consists of. No blob is read.

    Raises:
        RequestError: there is none, or something it names is not there or not understood.
        IntegrityError: a document has another digest than it is named by.
        TemporaryError: the registry cannot be reached now.
    """
    patience = patience or Patience()
    documents: dict[str, Document] = {}
    blobs: dict[str, Blob] = {}

    def walk(reference: str, depth: int) -> None:
        document = patience.call(lambda: source.document(reference))
        value = _parsed(source.image.at(reference), document)
        if document.is_index:
            if depth >= NESTING:
                raise RequestError(f"{source.image.at(reference)} lists lists of lists of images: name one of them.")
            for entry in _entries(source.image.at(reference), value, "manifests"):
                if entry.digest not in documents:
                    walk(entry.digest, depth + 1)
        else:
            named = _entries(source.image.at(reference), {"config": [value.get("config")]}, "config")
            for blob in [*named, *_entries(source.image.at(reference), value, "layers")]:
                blobs.setdefault(blob.digest, blob)
        documents[document.digest] = document

    walk(reference, 0)
    return Contents(tuple(documents.values()), tuple(blobs.values()))


def _parsed(image: OciImage, document: Document) -> Mapping[str, Any]:
    try:
        value = json.loads(document.data)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise RequestError(f"{image} is no image manifest, but something else: build the image again.")
    return value


def _entries(image: OciImage, value: Mapping[str, Any], key: str) -> Iterator[Blob]:
    entries = value.get(key)
    for entry in entries if isinstance(entries, list) else [None]:
        digest, size = (entry.get("digest"), entry.get("size")) if isinstance(entry, dict) else (None, None)
        if not isinstance(digest, str) or not is_digest(digest) or not isinstance(size, int) or size < 0:
            raise RequestError(f"{image} does not say of its {key} what they are: build the image again.")
        yield Blob(digest, size)
