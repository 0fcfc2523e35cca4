"""The documents of a model's image: pure, the same everywhere, and what the specification asks for."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from airfreight.manifest import Manifest
from airfreight.stores.oci.image import Base, BaseImage, ModelImage, PlacedLayer, assemble, digest_of
from airfreight.stores.oci.layers import manifest_layer, plan
from airfreight.stores.oci.registry import OCI_INDEX, OCI_MANIFEST
from tests.unit.memory_store import COMMIT, describe

CONTENTS = {"model-1.safetensors": b"one", "model-2.safetensors": b"two", "config.json": b"{}", "README.md": b"#"}
MANIFEST = describe(CONTENTS)


def digest(letter: str) -> str:
    return f"sha256:{letter * 64}"


def base_image(architecture: str, letter: str, **config: Any) -> BaseImage:
    whole = {
        "architecture": architecture,
        "os": "linux",
        "created": "2026-01-01T00:00:00Z",
        "config": {"Cmd": ["sh"], "User": "65532"},
        "rootfs": {"type": "layers", "diff_ids": [digest(letter)]},
        "history": [{"created_by": "COPY"}, {"created_by": "USER", "empty_layer": True}],
        "container": "docker's own",
    } | config
    layer = {"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": digest(letter), "size": 7}
    return BaseImage(digest(letter), whole, (layer,), {"architecture": architecture, "os": "linux"})


def made(base: Base | None = None, manifest: Manifest = MANIFEST) -> ModelImage:
    placed = [PlacedLayer.of(layer, f"sha256:{layer.key}") for layer in plan(manifest.files)]
    return assemble(manifest, placed, base)


def parsed(image: ModelImage) -> tuple[dict[str, Any], dict[str, Any]]:
    return json.loads(image.manifests[0].data), json.loads(image.configs[0])


def test_without_a_base_there_are_our_layers_and_nothing_else() -> None:
    image = made()
    document, config = parsed(image)
    assert image.index is None
    assert image.top is image.manifests[0]
    assert (document["schemaVersion"], document["mediaType"]) == (2, OCI_MANIFEST)
    assert {layer["mediaType"] for layer in document["layers"]} == {"application/vnd.oci.image.layer.v1.tar"}
    assert [layer["annotations"].get("org.opencontainers.image.title") for layer in document["layers"]] == [
        "model-1.safetensors", "model-2.safetensors", None, "airfreight.json",
    ]  # fmt: skip
    assert config["rootfs"] == {"type": "layers", "diff_ids": [layer["digest"] for layer in document["layers"]]}
    assert (config["architecture"], config["os"]) == ("amd64", "linux")
    assert len(config["history"]) == len(document["layers"])
    assert document["config"]["digest"] == digest_of(image.configs[0])
    assert document["config"]["size"] == len(image.configs[0])
    last = manifest_layer(MANIFEST)
    assert (document["layers"][-1]["digest"], document["layers"][-1]["size"]) == (digest_of(last), len(last))


def test_annotations_say_what_it_is() -> None:
    document, _ = parsed(made(Base(digest("b"), (base_image("amd64", "c"),))))
    assert document["annotations"] == {
        "airfreight.dev/source": f"hf://acme/pong@{COMMIT}",
        "airfreight.dev/commit": COMMIT,
        "airfreight.dev/version": COMMIT[:12],
        "airfreight.dev/manifest-sha256": MANIFEST.sha256,
        "airfreight.dev/recipe": "airfreight/1",
        "airfreight.dev/base": digest("b"),
    }
    weights = document["layers"][1]["annotations"]
    sha256 = hashlib.sha256(b"one").hexdigest()
    assert weights["airfreight.dev/file-sha256"] == sha256
    assert weights["olot.layer.content.digest"] == f"sha256:{sha256}"
    assert weights["airfreight.dev/layer"] == plan(MANIFEST.files)[0].key
    assert set(document["layers"][3]["annotations"]) == {"airfreight.dev/layer"}


def test_what_is_not_known_is_not_annotated() -> None:
    uncommitted = Manifest.of("file:///data/acme/pong/", "acme/pong", None, MANIFEST.files)
    document, _ = parsed(made(manifest=uncommitted))
    assert not {"airfreight.dev/commit", "airfreight.dev/base"} & set(document["annotations"])


def test_the_base_lies_below_and_its_config_stays() -> None:
    document, config = parsed(made(Base(digest("b"), (base_image("arm64", "c"),))))
    assert document["layers"][0]["digest"] == digest("c")
    assert config["rootfs"]["diff_ids"] == [layer["digest"] for layer in document["layers"]]
    assert config["config"] == {"Cmd": ["sh"], "User": "65532"}
    assert config["architecture"] == "arm64"
    assert "container" not in config
    layers = [entry for entry in config["history"] if not entry.get("empty_layer")]
    assert len(layers) == len(document["layers"])


@pytest.mark.parametrize("history", [None, [], [{"created_by": "one too many"}] * 2])
def test_a_history_that_does_not_fit_is_left_out(history: Any) -> None:
    _, config = parsed(made(Base(digest("b"), (base_image("amd64", "c", history=history),))))
    assert "history" not in config


def test_an_index_gives_an_image_for_each_platform() -> None:
    base = Base(digest("b"), (base_image("amd64", "c"), base_image("arm64", "d")), is_index=True)
    image = made(base)
    assert image.index is image.top
    index = json.loads(image.top.data)
    assert (index["mediaType"], index["schemaVersion"]) == (OCI_INDEX, 2)
    assert [entry["platform"]["architecture"] for entry in index["manifests"]] == ["amd64", "arm64"]
    assert [entry["digest"] for entry in index["manifests"]] == [document.digest for document in image.manifests]
    assert [entry["size"] for entry in index["manifests"]] == [len(document.data) for document in image.manifests]
    assert index["annotations"]["airfreight.dev/manifest-sha256"] == MANIFEST.sha256
    ours = [[layer["digest"] for layer in json.loads(document.data)["layers"][1:]] for document in image.manifests]
    assert ours[0] == ours[1]


def test_the_digest_is_a_function_of_manifest_base_and_recipe() -> None:
    base = Base(digest("b"), (base_image("amd64", "c"),))
    placed = [PlacedLayer.of(layer, f"sha256:{layer.key}") for layer in plan(MANIFEST.files)]
    digests = [
        made().top.digest,
        made(base).top.digest,
        made(Base(digest("d"), base.images)).top.digest,
        made(Base(base.digest, base.images, is_index=True)).top.digest,
        made(manifest=describe({**CONTENTS, "config.json": b"[]"})).top.digest,
        assemble(MANIFEST, placed, recipe="buildah/1").top.digest,
    ]
    assert len(set(digests)) == len(digests)
    assert made(base).top.digest == made(base).top.digest


def test_the_recipe_is_pinned() -> None:
    """If this fails, every image of every site gets another digest: then `RECIPE` must change too."""
    assert made().top.digest == "sha256:6de0327bdcf78a2eca9acc844433942e89e59989562711ffdcf169539ab24be7"
    assert made(Base(digest("b"), (base_image("amd64", "c"),), is_index=True)).top.digest == (
        "sha256:93aeb61cfdb099a21a32beb655d0201beece1cde077e9c848ec8390ac00ff40d"
    )


def test_a_layer_of_somebody_elses_recipe_is_never_taken_for_ours() -> None:
    layer = plan(MANIFEST.files)[0]
    other = PlacedLayer.of(layer, digest("e"), size=4096, recipe="buildah/1")
    assert other.size == 4096
    assert other.annotations["airfreight.dev/layer"] != layer.key
