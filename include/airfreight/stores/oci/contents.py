"""What an image or an index in a registry consists of, without reading a blob; and then reading one, hashed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from airfreight.errors import RequestError, TemporaryError
from airfreight.manifest import Hasher
from airfreight.reading import PROGRESS_BYTES
from airfreight.retry import Attempts, Patience
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


@dataclass
class Reading:
    """One pass over a blob: its hash, and how many bytes were read."""

    hasher: Hasher = field(default_factory=hashlib.sha256)
    count: int = 0

    @property
    def digest(self) -> str:
        """`sha256:<64 hex>` of what was read."""
        return f"sha256:{self.hasher.hexdigest()}"

    def chunks(
        self, source: Repository, blob: Blob, patience: Patience, took: Callable[[int], object]
    ) -> Generator[bytes, None, None]:
        """Yield a blob's bytes; a broken read goes on where it broke.

        Args:
            took: told the bytes of each chunk.
        Raises:
            RequestError, IntegrityError: as `Repository.open_blob`.
            TemporaryError: what did not heal in time.
        """
        credit = 0
        attempts = Attempts(patience)
        while True:
            try:
                with closing(source.open_blob(blob.digest, blob.size, self.count)) as chunks:
                    for chunk in chunks:
                        patience.check()
                        self.hasher.update(chunk)
                        self.count += len(chunk)
                        credit += len(chunk)
                        took(len(chunk))
                        yield chunk
                return
            except TemporaryError as error:
                if credit >= PROGRESS_BYTES:
                    attempts.reset()
                credit = 0
                attempts.wait_after(error)


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
