"""One repository of a registry: the OCI distribution API, one method per step. It never tries again by itself.

    GET    /v2/                                       ping
    HEAD   /v2/{name}/blobs/{digest}                  blob_size
    GET    /v2/{name}/blobs/{digest}  Range: bytes=   open_blob, read_blob
    POST   /v2/{name}/blobs/uploads/                  begin_upload (see `blob_upload`: chunks, or whole)
    POST   /v2/{name}/blobs/uploads/?mount=&from=     mount
    HEAD   /v2/{name}/manifests/{tag or digest}       describe
    GET    /v2/{name}/manifests/{tag or digest}       document
    PUT    /v2/{name}/manifests/{tag or digest}       put_document
    GET    /v2/{name}/tags/list                       tags

Source: opencontainers/distribution-spec, spec.md (v1.1). What is called a manifest there is a `Document` here (an image
manifest or an index), because a manifest is our list of files.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Generator
from copy import copy

import httpx2

from airfreight.environment import RegistrySettings
from airfreight.errors import IntegrityError, RequestError, TemporaryError
from airfreight.stores.oci.answers import Answer
from airfreight.stores.oci.blob_body import extent, window
from airfreight.stores.oci.blob_upload import BlobUpload
from airfreight.stores.oci.documents import (
    DOCKER_INDEX,
    DOCKER_MANIFEST,
    DOCUMENT_LIMIT,
    INDEXES,
    MANIFESTS,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_MANIFEST,
    Descriptor,
    Document,
    media_type_of,
)
from airfreight.stores.oci.oci_errors import DeniedError
from airfreight.stores.oci.reference import OciImage, is_digest
from airfreight.stores.oci.wire import TIMEOUT, Shared, Wire

__all__ = [
    "DOCKER_INDEX",
    "DOCKER_MANIFEST",
    "DOCUMENT_LIMIT",
    "INDEXES",
    "MANIFESTS",
    "OCI_CONFIG",
    "OCI_INDEX",
    "OCI_LAYER",
    "OCI_MANIFEST",
    "Descriptor",
    "Document",
    "Repository",
]

TAGS_AT_ONCE = 1000
PAGES_LIMIT = 1000
_NEXT = re.compile(r'<([^>]+)>\s*;\s*rel="?next\b')


class Repository:
    """One repository of one registry. Methods may be called from any thread; each is one try.

    All raise RequestError (no such registry or repository, no right, TLS against plain http), ThrottledError (429 and
    503 with Retry-After) and TemporaryError (5xx, broken connections, nothing for 60 s), in one sentence.

    Connections are kept and shared by all threads, and with every repository made by `beside`; `close` ends them.

    Args:
        image: registry and repository; its tag or digest is not looked at.
        settings: logins, and which registries are spoken plain http with.
        timeout: of each request; the read part is the longest time without a byte.
    Raises:
        RequestError: the docker config file is none.
    """

    def __init__(self, image: OciImage, settings: RegistrySettings, timeout: httpx2.Timeout = TIMEOUT) -> None:
        self._wire = Wire(image, Shared(image.registry, settings, timeout))
        self._push = f"push to {self.image.repository}"
        self._pull = f"pull from {self.image.repository}"

    @property
    def image(self) -> OciImage:
        """Registry and repository, without tag and digest."""
        return self._wire.image

    def beside(self, image: OciImage) -> Repository:
        """Return another repository of the same registry, over the same connections."""
        if image.registry != self.image.registry:
            raise ValueError(f"{image.registry} is not {self.image.registry}")
        other = copy(self)
        other._wire = Wire(image, self._wire.shared)
        other._push, other._pull = f"push to {other.image.repository}", f"pull from {other.image.repository}"
        return other

    def close(self) -> None:
        """End the connections. Never raises."""
        self._wire.shared.close()

    def ping(self) -> None:
        """Return if a registry answers here; whether a login is right shows when something is asked for."""
        self._wire.greet()

    def blob_size(self, digest: str) -> int | None:
        """Return the bytes of a blob, None where this repository has no such blob. One HEAD."""
        answer = self._wire.ask("HEAD", self._wire.url(f"blobs/{digest}"), self._wire.pull, self._pull, {200, 404})
        if answer.status == 404:
            return None
        length = answer.headers.get("Content-Length", "")
        if not length.isdigit():
            raise TemporaryError(
                f"The registry {self.image.registry} does not tell the size of {digest}: try again, or have it updated."
            )
        return int(length)

    def open_blob(
        self, digest: str, size: int, offset: int = 0, end: int | None = None
    ) -> Generator[bytes, None, None]:
        """Yield the bytes of a blob from `offset` up to `end` (exclusive; None: to its end), in chunks as the network
        brings them, 1 MiB at most.

        Not verified: whoever reads all of it compares. A registry that ignores Range is read from the start and what
        was not asked for is dropped (RFC 9110, 14.2). Redirects (to a CDN, an object store) are followed, without our
        login where they lead to another host.

        Args:
            size: of the whole blob, from its descriptor.
        Raises:
            RequestError: this repository has no such blob.
            IntegrityError: the blob has another size.
            TemporaryError: it ended early.
        """
        end = size if end is None else end
        if offset >= end:
            return
        headers = {} if (offset, end) == (0, size) else {"Range": f"bytes={offset}-{end - 1}"}
        with (
            self._wire.stream(
                "GET", self._wire.url(f"blobs/{digest}"), self._wire.pull, self._pull, {200, 206, 404, 416}, headers
            ) as response,
            self._wire.asked.translated(),
        ):
            if response.status_code == 404:
                raise RequestError(
                    f"The registry {self.image.registry} has no blob {digest} in {self.image.repository}: the image is "
                    "incomplete there; push it again, or name another one."
                )
            start, total = extent(response, offset)
            if response.status_code == 416 or (total is not None and total != size):
                raise IntegrityError(
                    f"The blob {digest} of {self.image.name} has {'fewer' if total is None else total} bytes where its "
                    f"image says {size}; nothing was published: the registry is damaged; push the image again."
                )
            yield from window(f"{digest} of the registry {self.image.registry}", response, start, offset, end)

    def read_blob(self, digest: str, limit: int = DOCUMENT_LIMIT) -> bytes:
        """Return a small blob (an image's config), verified.

        Raises:
            RequestError: there is none, or it is larger than `limit` bytes.
            IntegrityError: it has another digest.
        """
        answer = self._wire.ask(
            "GET", self._wire.url(f"blobs/{digest}"), self._wire.pull, self._pull, {200, 404}, limit=limit
        )
        if answer.status == 404:
            raise RequestError(
                f"The registry {self.image.registry} has no blob {digest} in {self.image.repository}: the image is "
                "incomplete there; push it again, or name another one."
            )
        return self._verified(answer, digest, limit)

    def mount(self, digest: str, origin: str) -> bool:
        """Take over a blob from another repository of this registry, without sending it.

        Args:
            origin: name of that repository.
        Returns:
            False where the registry does not do it, or that repository has no such blob, or may not be read: then it
            must be sent.
        """
        scopes = (*self._wire.push, f"repository:{origin}:pull")
        url = self._wire.url("blobs/uploads/", mount=digest, **{"from": origin})
        try:
            answer = self._wire.ask("POST", url, scopes, self._push, {201, 202, 404}, content=b"")
        except DeniedError:
            return False
        if answer.status == 202 and answer.headers.get("Location"):
            # An upload was begun instead (spec.md, "Mounting a blob from another repository"); nobody goes on with it.
            location = self._wire.absolute(answer.headers["Location"], answer.url)
            BlobUpload(self._wire, 0, location).cancel()
        return answer.status == 201

    def begin_upload(self, size: int) -> BlobUpload:
        """Start to send a blob of exactly `size` bytes. Its digest may be unknown until `BlobUpload.finish`."""
        return BlobUpload.begin(self._wire, size)

    def resume_upload(self, location: str, size: int) -> BlobUpload:
        """Go on with an upload that somebody began: `offset` is what the registry has of it.

        Args:
            location: `BlobUpload.location` as it was after the last `append` that returned, or before any.
        Raises:
            LostError: the registry no longer knows it, or takes no chunks.
        """
        return BlobUpload.resume(self._wire, location, size)

    def put_blob(self, data: bytes) -> str:
        """Store a small blob (a config, the last layer) unless it is there, and return its digest."""
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        if self.blob_size(digest) is None:
            upload = self.begin_upload(len(data))
            upload.send(data, digest)
        return digest

    def describe(self, reference: str) -> Descriptor | None:
        """Return what a tag or digest stands for, None where it stands for nothing. One HEAD, where need be a GET."""
        answer = self._manifests("HEAD", reference)
        digest = answer.headers.get("Docker-Content-Digest", "")
        length = answer.headers.get("Content-Length", "")
        if answer.status != 404 and is_digest(digest) and length.isdigit():
            return Descriptor(media_type_of(answer), digest, int(length))
        if answer.status == 404:
            return None
        document = self._document(reference)
        return None if document is None else Descriptor(document.media_type, document.digest, len(document.data))

    def resolve(self, reference: str) -> str:
        """Return the digest that a tag stands for now, or a digest that is known to exist here.

        Raises:
            RequestError: there is no such tag, digest or repository.
        """
        found = self.describe(reference)
        if found is None:
            raise self._missing(reference)
        return found.digest

    def document(self, reference: str) -> Document:
        """Return an image manifest or index by tag or digest; one by digest is verified.

        Raises:
            RequestError: there is none, it is larger than 4 MiB, or of a kind that is no image.
            IntegrityError: it has another digest than was asked for.
        """
        document = self._document(reference)
        if document is None:
            raise self._missing(reference)
        return document

    def put_document(self, document: Document, tag: str | None = None) -> str:
        """Store an image manifest or index, under `tag` if one is given, and return its digest.

        All that it names must be there. Safe to repeat.

        Raises:
            RequestError: the registry refuses it (the tag is immutable and means another image).
            IntegrityError: the registry names another digest than we computed.
            TemporaryError: a blob is missing there that was there before.
        """
        answer = self._wire.ask(
            "PUT", self._wire.url(f"manifests/{tag or document.digest}"), self._wire.push, self._push, {200, 201, 202},
            headers={"Content-Type": document.media_type}, content=document.data,
        )  # fmt: skip
        named = answer.headers.get("Docker-Content-Digest", document.digest)
        if named != document.digest:
            raise IntegrityError(
                f"The registry {self.image.registry} stored {named} in {self.image.repository} where {document.digest} "
                "was sent: have whatever rewrites images there taken out."
            )
        return document.digest

    def tags(self) -> list[str]:
        """Return the tags in the registry's order, all pages; empty where there is no such repository."""
        found: list[str] = []
        url = self._wire.url("tags/list", n=str(TAGS_AT_ONCE))
        for _ in range(PAGES_LIMIT):
            answer = self._wire.ask("GET", url, self._wire.pull, self._pull, {200, 404}, limit=DOCUMENT_LIMIT)
            if answer.status == 404:
                return found
            found += _names(answer)
            following = _NEXT.search(answer.headers.get("Link", ""))
            if following is None:
                return found
            url = self._wire.absolute(following.group(1), answer.url)
        raise RequestError(f"The registry {self.image.registry} has no end to its list of tags: have it repaired.")

    def _manifests(self, method: str, reference: str) -> Answer:
        return self._wire.ask(
            method, self._wire.url(f"manifests/{reference}"), self._wire.pull, self._pull, {200, 404},
            headers={"Accept": ", ".join((*MANIFESTS, *INDEXES))}, limit=DOCUMENT_LIMIT,
        )  # fmt: skip

    def _document(self, reference: str) -> Document | None:
        answer = self._manifests("GET", reference)
        if answer.status == 404:
            return None
        data = self._verified(answer, reference if is_digest(reference) else None, DOCUMENT_LIMIT)
        media_type = media_type_of(answer)
        if media_type not in (*MANIFESTS, *INDEXES):
            raise RequestError(
                f"{self.image.at(reference).name} is of the kind {media_type or 'unknown'}, which is no image: name an "
                "image manifest or index of OCI or Docker (schema 2)."
            )
        return Document(media_type, data)

    def _verified(self, answer: Answer, digest: str | None, limit: int) -> bytes:
        if len(answer.body) > limit:
            raise RequestError(
                f"The registry {self.image.registry} answers more than {limit} bytes for {digest or 'an image'} in "
                f"{self.image.repository}, where an image has fewer: name another image."
            )
        found = f"sha256:{hashlib.sha256(answer.body).hexdigest()}"
        if digest is not None and found != digest:
            raise IntegrityError(
                f"The registry {self.image.registry} serves {found} for {digest} of {self.image.repository}; nothing "
                "was published: it, or a mirror or proxy before it, is damaged; have it repaired."
            )
        return answer.body

    def _missing(self, reference: str) -> RequestError:
        return RequestError(
            f"{self.image.at(reference).name} does not exist: check the repository and the "
            f"{'digest' if is_digest(reference) else 'tag'}, or push the image first."
        )


def _names(answer: Answer) -> list[str]:
    try:
        names = json.loads(answer.body).get("tags") or []
    except (ValueError, AttributeError):
        names = [None]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise TemporaryError(f"{answer.url} is no list of tags: try again, or have the registry repaired.")
    return names
