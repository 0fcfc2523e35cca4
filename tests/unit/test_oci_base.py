"""The image below a model's: read by digest, brought along, refused where nothing could be built on it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import pytest

from airfreight.errors import IntegrityError, RequestError
from airfreight.stores.oci.base import BaseSource, parse_base
from airfreight.stores.oci.reference import OciImage
from airfreight.stores.oci.registry import DOCKER_INDEX, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, Repository
from tests.standins.registry import Fault, Registry
from tests.unit.oci_yard import NO_LOGINS, Yard, carry

GZIP = "application/vnd.docker.image.rootfs.diff.tar.gzip"


@pytest.fixture
def yard() -> Iterator[Yard]:
    with Registry() as registry:
        yield Yard(registry)


@pytest.fixture
def far() -> Iterator[Registry]:
    """Another registry, where bases lie."""
    with Registry() as registry:
        yield registry


def put(
    registry: Registry, repository: str = "bases/tiny", layers: int = 1, media_type: str = GZIP, **config: Any
) -> str:
    """Place an image; return its digest."""
    datas = [f"{repository} layer {number}".encode() * 400_000 for number in range(layers)]
    digests = [registry.put_blob(repository, data) for data in datas]
    value = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": digests}} | config
    data = json.dumps(value).encode()
    document = {
        "schemaVersion": 2,
        "mediaType": DOCKER_MANIFEST,
        "config": {"digest": registry.put_blob(repository, data), "size": len(data)},
        "layers": [
            {"mediaType": media_type, "digest": digest, "size": len(data)}
            for digest, data in zip(digests, datas, strict=True)
        ],
    }
    return registry.put_manifest(repository, DOCKER_MANIFEST, json.dumps(document).encode())


def put_index(registry: Registry, platforms: dict[str, dict[str, str]], media_type: str = OCI_INDEX) -> str:
    entries = []
    for name, platform in platforms.items():
        digest = put(registry, architecture=platform["architecture"], author=name)
        _, data = registry.manifests["bases/tiny", digest]
        entries.append({"mediaType": DOCKER_MANIFEST, "digest": digest, "size": len(data), "platform": platform})
    index = json.dumps({"schemaVersion": 2, "mediaType": media_type, "manifests": entries}).encode()
    return registry.put_manifest("bases/tiny", media_type, index)


def source(registry: Registry, digest: str) -> BaseSource:
    image = OciImage(registry.host, "bases/tiny", digest=digest)
    return BaseSource(image, Repository(image, NO_LOGINS))


@pytest.mark.parametrize("where", ["the same registry", "another registry"])
def test_its_layers_come_along(yard: Yard, far: Registry, where: str) -> None:
    registry = yard.registry if where == "the same registry" else far
    digest = put(registry)
    store = carry(yard, base=source(registry, digest))
    document = json.loads(yard.registry.manifests["models/acme/pong", store.artifact.rpartition("@")[2]][1])
    below = document["layers"][0]
    assert below["mediaType"] == "application/vnd.oci.image.layer.v1.tar+gzip", "Docker's name of it is translated"
    assert ("models/acme/pong", below["digest"]) in yard.registry.links
    assert document["annotations"]["airfreight.dev/base"] == digest
    sent = yard.registry.received("PATCH")
    assert (sent > below["size"]) == (where == "another registry"), "mounted or sent"
    assert yard.registry.uploads == {}


def test_it_need_not_be_asked_for_what_is_sealed_already(yard: Yard, far: Registry) -> None:
    digest = put(far)
    first = carry(yard, base=source(far, digest))
    far.requests.clear()
    assert carry(yard, base=source(far, digest)).artifact == first.artifact
    assert far.requests == []


def test_a_base_elsewhere_gives_the_same_image(yard: Yard, far: Registry) -> None:
    here, there = put(yard.registry), put(far)
    assert here == there
    first = carry(yard, base=source(yard.registry, here))
    second = carry(yard, base=source(far, there), image=yard.image("models/mirror"))
    assert first.artifact.rpartition("@")[2] == second.artifact.rpartition("@")[2]


@pytest.mark.parametrize("media_type", [OCI_INDEX, DOCKER_INDEX])
def test_of_an_index_each_real_platform_is_taken(yard: Yard, far: Registry, media_type: str) -> None:
    platforms = {
        "amd": {"architecture": "amd64", "os": "linux"},
        "arm": {"architecture": "arm64", "os": "linux", "variant": "v8"},
        "attestation": {"architecture": "unknown", "os": "unknown"},
        "other": {"architecture": "amd64", "os": "windows"},
    }
    store = carry(yard, base=source(far, put_index(far, platforms, media_type)))
    index = json.loads(yard.registry.manifests["models/acme/pong", store.artifact.rpartition("@")[2]][1])
    assert index["mediaType"] == OCI_INDEX
    assert [entry["platform"] for entry in index["manifests"]] == [platforms["amd"], platforms["arm"]]
    assert {entry["mediaType"] for entry in index["manifests"]} == {OCI_MANIFEST}
    again = carry(yard, base=source(far, index["annotations"]["airfreight.dev/base"]))
    assert again.facts()["sent_bytes"] == 0


def test_another_base_is_another_image_and_the_tag_stays(yard: Yard, far: Registry) -> None:
    first = carry(yard, base=source(far, put(far)))
    other = put(far, author="somebody")
    with pytest.raises(RequestError) as caught:
        carry(yard, base=source(far, other))
    assert f"{yard.image()} is this version on the base sha256:" in caught.value.message
    assert f"not on the base {other[:19]}…, and a version is never overwritten: give the same" in caught.value.message
    with pytest.raises(RequestError, match=r"is this version on the base sha256:.*, not on no base, and a version"):
        carry(yard)
    second = carry(yard, base=source(far, other), image=yard.image(tag="second"))
    assert second.artifact != first.artifact
    assert second.facts()["sent_bytes"] < 10_000, "the layers are shared"


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ({"layers": 26}, "has 26 layers and leaves no room for a model's: give one of 25 layers at most"),
        ({"media_type": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"}, "which cannot be carried to ano"),
        ({"os": "windows"}, "is no image that containers of Linux can be made of: give another base"),
        ({"rootfs": {"diff_ids": []}}, "is no image that containers of Linux can be made of: give another base"),
    ],
)
def test_what_cannot_be_built_on_is_refused_before_a_byte(
    yard: Yard,
    far: Registry,
    how: dict[str, Any],
    sentence: str,
) -> None:
    with pytest.raises(RequestError) as caught:
        carry(yard, base=source(far, put(far, **how)))
    assert sentence in caught.value.message
    assert yard.registry.received("PATCH") == yard.registry.received("PUT") == 0
    assert yard.registry.uploads == {}


def test_an_index_without_linux_is_refused(yard: Yard, far: Registry) -> None:
    digest = put_index(far, {"other": {"architecture": "amd64", "os": "windows"}})
    with pytest.raises(RequestError, match="holds no image for Linux: give another base"):
        carry(yard, base=source(far, digest))


def test_a_base_that_is_not_there_is_named(yard: Yard, far: Registry) -> None:
    with pytest.raises(RequestError, match=rf"{far.host}/bases/tiny@sha256:0+ does not exist"):
        carry(yard, base=source(far, "sha256:" + "0" * 64))


def test_a_base_that_breaks_on_its_way_is_sent_again(yard: Yard, far: Registry) -> None:
    digest = put(far)
    far.faults.append(Fault("break", "GET", match="blobs", skip=1, after=100_000, times=2))
    store = carry(yard, base=source(far, digest))
    assert far.faults[0].times == 0
    assert yard.registry.uploads == {}
    assert store.facts()["image_digest"] is not None


@pytest.mark.parametrize("chunks", [True, False])
def test_a_base_whose_upload_is_lost_is_sent_again(yard: Yard, far: Registry, chunks: bool) -> None:
    digest = put(far)
    yard.registry.chunks = chunks
    yard.registry.faults.append(Fault("lose", "PUT", match="uploads", skip=3))  # after the three layers of the model
    store = carry(yard, base=source(far, digest))
    assert yard.registry.faults[0].times == 0, "the fault was met"
    assert store.facts()["image_digest"] is not None
    (layer,) = json.loads(far.manifests["bases/tiny", digest][1])["layers"]
    assert yard.registry.blobs[layer["digest"]] == far.blobs[layer["digest"]]
    assert far.counted("GET", layer["digest"]) == 2


def test_a_damaged_base_is_not_published(yard: Yard, far: Registry) -> None:
    digest = put(far)
    layer = json.loads(far.manifests["bases/tiny", digest][1])["layers"][0]["digest"]
    far.blobs[layer] = b"\1" + far.blobs[layer][1:]
    assert hashlib.sha256(far.blobs[layer]).hexdigest() not in layer
    with pytest.raises(IntegrityError):
        carry(yard, base=source(far, digest))
    assert yard.registry.tags == {}


@pytest.mark.parametrize("text", ["registry.example/base:1.0", "oci://registry.example/base"])
def test_a_base_by_tag_is_refused(text: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_base(text)
    assert caught.value.message == (
        f"The base {text!r} is no digest, and what is built on a tag is another image tomorrow: give "
        "registry/repository@sha256:<64 hex digits>, as `airfreight runtime pin` resolves it."
    )


def test_a_base_by_digest_is_read() -> None:
    digest = "sha256:" + "a" * 64
    assert parse_base(f"registry.example:5000/tiny@{digest}") == OciImage("registry.example:5000", "tiny", None, digest)
