"""Images as other tools build them, placed in a stand-in registry: layers of any form and any content."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from airfreight.stores.oci.registry import OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST
from tests.standins.registry import Registry

LINK, HARD, DIRECTORY, PIPE = tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE


def tar(entries: Mapping[str, bytes | tuple[bytes, str]], form: int = tarfile.GNU_FORMAT) -> bytes:
    """Return an archive: content by name, or the kind and target of what is no file."""
    room = io.BytesIO()
    with tarfile.open(fileobj=room, mode="w", format=form) as archive:
        for name, what in entries.items():
            info = tarfile.TarInfo(name)
            if isinstance(what, tuple):
                info.type, info.linkname = what
                archive.addfile(info)
            else:
                info.size = len(what)
                archive.addfile(info, io.BytesIO(what))
    return room.getvalue()


def packed(data: bytes) -> bytes:
    """Return a gzip that is the same every time."""
    return gzip.compress(data, 1, mtime=0)


@dataclass
class Image:
    """An image to be placed: its layers from the lowest up, as they lie in a registry."""

    layers: Sequence[bytes]
    annotations: Mapping[str, str] = field(default_factory=dict)
    titles: Mapping[int, str] = field(default_factory=dict)
    media_type: str | None = None

    def place(self, registry: Registry, repository: str = "acme/pong", tag: str | None = None) -> str:
        """Place it and return its digest."""
        config = registry.put_blob(repository, b'{"architecture":"amd64","os":"linux"}')
        value = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": {"mediaType": OCI_CONFIG, "digest": config, "size": 37},
            "layers": [self._layer(registry, repository, number) for number in range(len(self.layers))],
            "annotations": dict(self.annotations),
        }
        return registry.put_manifest(repository, OCI_MANIFEST, json.dumps(value).encode(), tag)

    def _layer(self, registry: Registry, repository: str, number: int) -> dict[str, Any]:
        data = self.layers[number]
        kind = self.media_type or OCI_LAYER + ("+gzip" if data.startswith(b"\x1f\x8b") else "")
        title = {"org.opencontainers.image.title": self.titles[number]} if number in self.titles else {}
        return {
            "mediaType": kind,
            "digest": registry.put_blob(repository, data),
            "size": len(data),
            "annotations": title,
        }


def place_index(
    registry: Registry, images: Mapping[str, str], repository: str = "acme/pong", tag: str | None = None
) -> str:
    """Place an index over images that are there, by `os/architecture`, and return its digest."""
    entries = []
    for platform, digest in images.items():
        system, _, machine = platform.partition("/")
        size = len(registry.manifests[repository, digest][1])
        entries.append(
            {
                "mediaType": OCI_MANIFEST,
                "digest": digest,
                "size": size,
                "platform": {"os": system, "architecture": machine},
            }
        )
    data = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}).encode()
    return registry.put_manifest(repository, OCI_INDEX, data, tag)


def sha256(data: bytes) -> str:
    """Return the digest of a file in hex."""
    return hashlib.sha256(data).hexdigest()
