"""The image of a model: config, image manifest, index. Pure: the same layers on the same base give the same bytes.

    index                    only where the base is one: an image for each of its platforms
    └─ image manifest        annotations: what it is, of which recipe, on which base
       ├─ config             the base's, with the digests of our layers added
       ├─ layers of the base
       └─ our layers         see `layers`; `models/airfreight.json` is the last

    airfreight.dev/source           hf://acme/pong@41ab6c1b1c1f6d3a4f3f2b0f7a3d9c5e8b7a6f50
    airfreight.dev/commit           41ab6c1b1c1f6d3a4f3f2b0f7a3d9c5e8b7a6f50     (where there is one)
    airfreight.dev/version          41ab6c1b1c1f
    airfreight.dev/manifest-sha256  of models/airfreight.json
    airfreight.dev/recipe           airfreight/1
    airfreight.dev/base             sha256:…  as it was asked for                (where there is one)

    of a layer:
    airfreight.dev/layer            its identity before its digest is known (`layers.Layer.key`)
    airfreight.dev/file-sha256, olot.layer.content.digest, org.opencontainers.image.title
                                    of the file, where there is only one; the second for tools that know olot's images

The base's registry is no part of it: a mirrored base gives the same image. Without a base the image holds /models and
nothing that runs: it serves as an image volume (`oci+native`), not as a sidecar. Its config says linux/amd64, which
nobody asks: containerd looks at the platform of an image that it chose from an index, not of one that was named by
itself (containerd 2, core/images/image.go, Manifest), and files of weights are the same everywhere.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from airfreight.manifest import MANIFEST_NAME, Manifest
from airfreight.stores.oci.layers import RECIPE, Layer, manifest_layer
from airfreight.stores.oci.registry import OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST, Document

DOMAIN = "airfreight.dev/"
SOURCE, COMMIT, VERSION = f"{DOMAIN}source", f"{DOMAIN}commit", f"{DOMAIN}version"
MANIFEST_SHA256, RECIPE_NAME, BASE = f"{DOMAIN}manifest-sha256", f"{DOMAIN}recipe", f"{DOMAIN}base"
LAYER_KEY, FILE_SHA256 = f"{DOMAIN}layer", f"{DOMAIN}file-sha256"
OLOT_DIGEST = "olot.layer.content.digest"
TITLE = "org.opencontainers.image.title"
EPOCH = "1970-01-01T00:00:00Z"
# What the specification names (opencontainers/image-spec, config.md); Docker's own further keys are left out.
_CONFIG_KEYS = ("architecture", "author", "config", "created", "os", "os.features", "os.version", "variant")


@dataclass(frozen=True)
class PlacedLayer:
    """A layer that is in a registry, or is about to be.

    Attributes:
        digest: `sha256:<64 hex>` of its archive, which is its diff id too, for it is not compressed.
        size: bytes of the archive.
        annotations: see the top of this file.
    """

    digest: str
    size: int
    annotations: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, layer: Layer, digest: str, *, size: int | None = None, recipe: str = RECIPE) -> PlacedLayer:
        """Describe a layer of files; `size` and `recipe` are needed where somebody else wrote the archive."""
        annotations = {LAYER_KEY: layer.key_by(recipe)}
        if len(layer.files) == 1:
            (file,) = layer.files
            annotations[TITLE] = file.path
            if file.sha256 is not None:
                annotations |= {FILE_SHA256: file.sha256, OLOT_DIGEST: f"sha256:{file.sha256}"}
        return cls(digest, layer.size if size is None else size, annotations)

    @classmethod
    def of_manifest(cls, manifest: Manifest) -> PlacedLayer:
        """Describe the last layer, which holds the manifest."""
        data = manifest_layer(manifest)
        return cls(digest_of(data), len(data), {TITLE: MANIFEST_NAME})


@dataclass(frozen=True)
class BaseImage:
    """One image below ours.

    Attributes:
        digest: of its image manifest.
        config: its config, as JSON.
        layers: descriptors of its layers, as JSON, with OCI's names of their media types.
        platform: what an index says it runs on, as JSON; empty where no index named it.
    """

    digest: str
    config: Mapping[str, Any]
    layers: tuple[Mapping[str, Any], ...]
    platform: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Base:
    """What an image is built on.

    Attributes:
        digest: as it was asked for: of an index or of an image manifest.
        images: one for each platform of an index, in its order; else one.
        is_index: whether an index was asked for, and so is made.
    """

    digest: str
    images: tuple[BaseImage, ...]
    is_index: bool = False


@dataclass(frozen=True)
class ModelImage:
    """The documents of one model's image.

    Attributes:
        configs: to be stored as blobs.
        manifests: to be stored before the index.
        index: or None.
    """

    configs: tuple[bytes, ...]
    manifests: tuple[Document, ...]
    index: Document | None

    @property
    def top(self) -> Document:
        """What the tag stands for, and whose digest is the artifact's."""
        return self.index or self.manifests[0]


def digest_of(data: bytes) -> str:
    """Return `sha256:<64 hex>`."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def canonical(value: object) -> bytes:
    """Return JSON in UTF-8: sorted keys, no white space."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def assemble(
    manifest: Manifest,
    layers: Sequence[PlacedLayer],
    base: Base | None = None,
    *,
    recipe: str = RECIPE,
) -> ModelImage:
    """Return the documents of a model's image.

    Args:
        layers: of its files, in the order of `layers.plan`.
        base: what it is built on; None: nothing.
        recipe: who wrote the layers, and how.
    """
    placed = (*layers, PlacedLayer.of_manifest(manifest))
    annotations = _annotations(manifest, base, recipe)
    images = base.images if base is not None else (None,)
    configs = tuple(_config(image, placed) for image in images)
    manifests = tuple(
        Document(
            OCI_MANIFEST,
            canonical(
                {
                    "schemaVersion": 2,
                    "mediaType": OCI_MANIFEST,
                    "config": {"mediaType": OCI_CONFIG, "digest": digest_of(config), "size": len(config)},
                    "layers": [*(image.layers if image is not None else ()), *(_descriptor(layer) for layer in placed)],
                    "annotations": annotations,
                }
            ),
        )
        for image, config in zip(images, configs, strict=True)
    )
    if base is None or not base.is_index:
        return ModelImage(configs, manifests, None)
    entries = [
        {"mediaType": OCI_MANIFEST, "digest": document.digest, "size": len(document.data), "platform": image.platform}
        for image, document in zip(base.images, manifests, strict=True)
    ]
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries, "annotations": annotations}
    return ModelImage(configs, manifests, Document(OCI_INDEX, canonical(index)))


def _annotations(manifest: Manifest, base: Base | None, recipe: str) -> dict[str, str]:
    found = {
        SOURCE: manifest.source,
        COMMIT: manifest.commit,
        VERSION: manifest.version,
        MANIFEST_SHA256: manifest.sha256,
        RECIPE_NAME: recipe,
        BASE: base.digest if base is not None else None,
    }
    return {name: value for name, value in found.items() if value is not None}


def _descriptor(layer: PlacedLayer) -> dict[str, object]:
    return {
        "mediaType": OCI_LAYER,
        "digest": layer.digest,
        "size": layer.size,
        "annotations": dict(layer.annotations),
    }


def _config(base: BaseImage | None, layers: Sequence[PlacedLayer]) -> bytes:
    found: Mapping[str, Any] = base.config if base is not None else {"architecture": "amd64", "os": "linux"}
    config = {key: found[key] for key in _CONFIG_KEYS if found.get(key) is not None}
    diff_ids = list(found.get("rootfs", {}).get("diff_ids", []))
    config["rootfs"] = {"type": "layers", "diff_ids": [*diff_ids, *(layer.digest for layer in layers)]}
    history = list(found.get("history") or [])
    if sum(not entry.get("empty_layer") for entry in history) == len(diff_ids):
        # Buildah wants one entry for each layer, where there are any.
        config["history"] = [
            *history,
            *(
                {"created": EPOCH, "created_by": f"airfreight {layer.annotations.get(TITLE, 'other files')}"}
                for layer in layers
            ),
        ]
    return canonical(config)
