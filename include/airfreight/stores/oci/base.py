"""The image that a model's image is built on: read by digest, its layers brought into the model's repository.

    registry.example/airfreight/modelcar-base@sha256:<64 hex>      of an index or of an image manifest

A tag is refused: the base's digest is part of the model's, and a tag would mean another image tomorrow. Of an index the
images for Linux are taken, each for its platform; what is no image (attestations, of platform unknown/unknown) is left
out. Docker's names of media types become OCI's; the bytes, and so the digests of the layers, stay as they are.

A layer that lies at the same registry is mounted, else it is read and sent once; it is verified either way, for the
registry compares its digest.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from contextlib import closing
from typing import Any

from airfreight.errors import RequestError, TemporaryError
from airfreight.retry import LostError
from airfreight.stores.oci.image import Base, BaseImage
from airfreight.stores.oci.layers import BASE_LAYERS
from airfreight.stores.oci.reference import OciImage, is_digest, parse_image
from airfreight.stores.oci.registry import Document, Repository

PIECE = 8 * 1024 * 1024  # bytes that are sent at once
# Docker's names of the same things (opencontainers/image-spec, media-types.md, compatibility matrix).
_LAYERS = {
    "application/vnd.docker.image.rootfs.diff.tar": "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip": "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd": "application/vnd.oci.image.layer.v1.tar+zstd",
}
_LAYER_PREFIX = "application/vnd.oci.image.layer.v1.tar"


def parse_base(text: str) -> OciImage:
    """Read the base as people write it.

    Raises:
        RequestError: it is malformed, or names no digest.
    """
    subject = f"The base {text!r}"
    image = parse_image(subject, text)
    if image.digest is None:
        raise RequestError(
            f"{subject} is no digest, and what is built on a tag is another image tomorrow: give "
            "registry/repository@sha256:<64 hex digits>, as `airfreight runtime pin` resolves it."
        )
    return image


class BaseSource:
    """A base at its registry. Methods may be called from any thread.

    Args:
        image: with its digest.
        repository: where it lies.
    """

    def __init__(self, image: OciImage, repository: Repository) -> None:
        self.image = image
        self._repository = repository
        self._lock = threading.Lock()
        self._base: Base | None = None

    @property
    def digest(self) -> str:
        """`sha256:<64 hex>`, as it was asked for."""
        return self.image.digest or ""

    def load(self) -> Base:
        """Return what is to be built on; read once: two requests for each image.

        Raises:
            RequestError: it is not there, it is no image for Linux, or has more layers than leave room for a model's.
            IntegrityError: it is not what its digest says.
            TemporaryError: it cannot be read now.
        """
        with self._lock:
            if self._base is None:
                self._base = self._read()
            return self._base

    def place(self, target: Repository) -> None:
        """Bring the layers into another repository, those that are not there. Safe to repeat.

        Raises:
            RequestError, IntegrityError, TemporaryError: as both registries do.
        """
        layers = {layer["digest"]: layer["size"] for image in self.load().images for layer in image.layers}
        for digest, size in layers.items():
            if target.blob_size(digest) is None and not self._mounted(digest, target):
                try:
                    self._send(digest, size, target)
                except LostError as error:
                    raise TemporaryError(error.message) from error  # here repeating does begin the layer again

    def _mounted(self, digest: str, target: Repository) -> bool:
        same = target.image.registry == self.image.registry
        return same and target.mount(digest, self.image.repository)

    def _send(self, digest: str, size: int, target: Repository) -> None:
        upload = target.begin_upload(size)
        try:
            piece, sent = bytearray(), 0
            with closing(self._repository.open_blob(digest, size)) as chunks:
                for chunk in chunks:
                    piece += chunk
                    if len(piece) >= max(PIECE, upload.least_chunk):
                        upload.append(piece, sent)
                        sent, piece = sent + len(piece), bytearray()
            if piece:
                upload.append(piece, sent)
            upload.finish(digest)
        except BaseException:
            upload.cancel()
            raise

    def _read(self) -> Base:
        document = self._repository.document(self.digest)
        if not document.is_index:
            return Base(self.digest, (self._image(document, {}),))
        images = tuple(
            self._image(self._repository.document(entry["digest"]), entry["platform"])
            for entry in _list(document, "manifests")
            if _is_linux(entry)
        )
        if not images:
            raise RequestError(f"The base {self.image.name} holds no image for Linux: give another base.")
        return Base(self.digest, images, is_index=True)

    def _image(self, document: Document, platform: Mapping[str, Any]) -> BaseImage:
        if document.is_index:
            raise RequestError(f"The base {self.image.name} is an index of indexes: give the digest of one of them.")
        layers = tuple(self._layer(entry) for entry in _list(document, "layers"))
        if len(layers) > BASE_LAYERS:
            raise RequestError(
                f"The base {self.image.name} has {len(layers)} layers and leaves no room for a model's: give one of "
                f"{BASE_LAYERS} layers at most, as a base of `sh`, `ln`, `sleep` and `ls` is."
            )
        config = self._config(document)
        diff_ids = config.get("rootfs", {}).get("diff_ids", [])
        if len(diff_ids) != len(layers) or config.get("os", "linux") != "linux":
            raise RequestError(
                f"The base {self.image.name} is no image that containers of Linux can be made of: give another base."
            )
        return BaseImage(document.digest, config, layers, dict(platform))

    def _layer(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        media_type = _LAYERS.get(entry.get("mediaType", ""), entry.get("mediaType", ""))
        if not media_type.startswith(_LAYER_PREFIX) or entry.get("urls") or not is_digest(entry["digest"]):
            raise RequestError(
                f"The base {self.image.name} has a layer of the kind {media_type or 'unknown'!r}, which cannot be "
                "carried to another registry: give another base."
            )
        layer = {"mediaType": media_type, "digest": entry["digest"], "size": entry["size"]}
        return layer | ({"annotations": entry["annotations"]} if entry.get("annotations") else {})

    def _config(self, document: Document) -> dict[str, Any]:
        described = json.loads(document.data).get("config") or {}
        value = json.loads(self._repository.read_blob(described.get("digest", "")))
        if not isinstance(value, dict):
            raise RequestError(f"The base {self.image.name} has no config, so it is no image: give another base.")
        return value


def _list(document: Document, key: str) -> list[dict[str, Any]]:
    return list(json.loads(document.data).get(key) or [])


def _is_linux(entry: Mapping[str, Any]) -> bool:
    """Whether an entry of an index is an image for Linux. Attestations are of platform unknown/unknown (BuildKit)."""
    platform = entry.get("platform") or {}
    return platform.get("os") == "linux" and platform.get("architecture", "unknown") != "unknown"
