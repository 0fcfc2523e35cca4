"""From one registry to another: the digest stays, wrong bytes never arrive, what is there is not sent."""

from __future__ import annotations

import hashlib
import json
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airfreight.environment import RegistrySettings
from airfreight.errors import IntegrityError, RequestError, TemporaryError
from airfreight.progress import Progress
from airfreight.retry import Patience
from airfreight.stores.oci import mirror as mirror_module
from airfreight.stores.oci.contents import contents
from airfreight.stores.oci.mirror import mirror
from airfreight.stores.oci.reference import OciImage
from airfreight.stores.oci.registry import OCI_INDEX, OCI_MANIFEST, Repository
from tests.standins.images import Image, packed, place_index, tar
from tests.standins.registry import Fault, Registry

MIB = 1024 * 1024
LAYERS = [
    tar({"models/a.safetensors": random.Random(1).randbytes(3 * MIB)}),
    packed(tar({"models/config.json": b"{}"})),
    tar({"models/b.safetensors": random.Random(2).randbytes(MIB)}),
]
CONFIG = 37
SIZE = sum(map(len, LAYERS)) + CONFIG
FAST = Patience(base=0.001, longest=0.01)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror_module, "ROOM", 2 * MIB)


@pytest.fixture
def open_at(tmp_path: Path) -> Callable[..., Repository]:
    def opened(registry: Registry, name: str = "acme/pong") -> Repository:
        return Repository(OciImage(registry.host, name), RegistrySettings(str(tmp_path / "none")))

    return opened


def sentence(kind: type[Exception], call: Callable[[], Any]) -> str:
    with pytest.raises(kind) as caught:
        call()
    message = str(caught.value)
    assert message.endswith(".")
    assert ". " not in message, "one sentence"
    return message


def test_the_digest_stays(here: Registry, there: Registry, open_at: Callable[..., Repository]) -> None:
    digest = Image(LAYERS, {"a": "b"}).place(here, tag="v1")
    lines: list[str] = []
    done = mirror(open_at(here), "v1", open_at(there, "mirror/pong"), "v2", FAST, Progress(lines.append))
    assert done.image == OciImage(there.host, "mirror/pong", digest=digest)
    assert (done.tag, done.blobs, done.size_bytes, done.moved_bytes) == ("v2", 4, SIZE, SIZE)
    assert (done.reused_blobs, done.mounted_blobs) == (0, 0)
    assert there.manifests["mirror/pong", digest] == here.manifests["acme/pong", digest]
    assert there.tags["mirror/pong", "v2"] == digest
    assert set(there.blobs) == set(here.blobs)
    assert lines[-1].startswith("done: 4/4 blobs, "), "one of them is the config: they are no files"
    assert not there.uploads


def test_again_moves_nothing(here: Registry, there: Registry, open_at: Callable[..., Repository]) -> None:
    Image(LAYERS).place(here, tag="v1")
    mirror(open_at(here), "v1", open_at(there), "v1", FAST)
    before = len(here.requests)
    done = mirror(open_at(here), "v1", open_at(there), "v1", FAST)
    assert (done.moved_bytes, done.reused_blobs) == (0, 4)
    assert there.counted("POST") == 4
    assert [request.path for request in here.requests[before:] if "blobs" in request.path] == []


def test_a_blob_that_the_destination_lost_is_sent_again(
    here: Registry, there: Registry, open_at: Callable[..., Repository]
) -> None:
    Image(LAYERS).place(here, tag="v1")
    mirror(open_at(here), "v1", open_at(there), "v1", FAST)
    lost = f"sha256:{hashlib.sha256(LAYERS[2]).hexdigest()}"
    there.links.remove(("acme/pong", lost))
    del there.blobs[lost]
    done = mirror(open_at(here), "v1", open_at(there), "v1", FAST)
    assert (done.moved_bytes, done.reused_blobs) == (len(LAYERS[2]), 3)
    assert there.blobs[lost] == LAYERS[2]


def test_the_next_version_moves_only_what_changed(
    here: Registry, there: Registry, open_at: Callable[..., Repository]
) -> None:
    Image(LAYERS).place(here, tag="v1")
    mirror(open_at(here), "v1", open_at(there), "v1", FAST)
    changed = tar({"models/b.safetensors": b"new"})
    Image([*LAYERS[:2], changed]).place(here, tag="v2")
    done = mirror(open_at(here), "v2", open_at(there), "v2", FAST)
    assert (done.moved_bytes, done.reused_blobs) == (len(changed), 3)


def test_without_a_tag(here: Registry, there: Registry, open_at: Callable[..., Repository]) -> None:
    digest = Image(LAYERS).place(here)
    done = mirror(open_at(here), digest, open_at(there), None, FAST)
    assert done.tag is None
    assert not there.tags
    assert ("acme/pong", digest) in there.manifests


def test_an_index_with_all_its_images(here: Registry, there: Registry, open_at: Callable[..., Repository]) -> None:
    amd, arm = Image(LAYERS).place(here), Image([*LAYERS, tar({"bin/arm": b"x"})]).place(here)
    index = place_index(here, {"linux/amd64": amd, "linux/arm64": arm, "unknown/unknown": arm}, tag="v1")
    found = contents(open_at(here), "v1")
    assert [document.digest for document in found.documents] == [amd, arm, index]
    assert len(found.blobs) == 5, "each once"
    done = mirror(open_at(here), "v1", open_at(there), "v1", FAST)
    assert done.image.digest == index
    assert set(there.manifests) == {("acme/pong", digest) for digest in (amd, arm, index)}


def test_a_layer_that_the_destination_is_known_to_refuse_is_refused_before_anything_moves(
    here: Registry, there: Registry, open_at: Callable[..., Repository], monkeypatch: pytest.MonkeyPatch
) -> None:
    Image(LAYERS).place(here, tag="v1")
    monkeypatch.setattr("airfreight.prechecks.LAYER_LIMITS", (("127.0.0.1", 2 * MIB),))
    message = sentence(RequestError, lambda: mirror(open_at(here), "v1", open_at(there), "v1", FAST))
    layer = f"sha256:{hashlib.sha256(LAYERS[0]).hexdigest()}"
    assert message == (
        f"oci://{here.host}/acme/pong has a layer {layer[:19]}… of 3.0 MiB and the registry {there.host} takes 2.0 "
        "MiB: build the image again with smaller layers, or choose another destination."
    )
    assert here.counted("GET", "blobs") == there.counted("POST") == 0
    there.put_blob("acme/pong", LAYERS[0])
    assert mirror(open_at(here), "v1", open_at(there), "v1", FAST).reused_blobs == 1, "what is there was taken"


def test_on_the_same_registry_blobs_are_mounted(here: Registry, open_at: Callable[..., Repository]) -> None:
    Image(LAYERS).place(here, tag="v1")
    source = open_at(here)
    done = mirror(source, "v1", source.beside(OciImage(here.host, "other/pong")), "v1", FAST)
    assert (done.moved_bytes, done.mounted_blobs) == (0, 4)
    assert here.counted("PATCH") == here.counted("GET", "blobs") == 0


def test_where_mounts_are_refused_blobs_are_sent(here: Registry, open_at: Callable[..., Repository]) -> None:
    here.mounts = False
    Image(LAYERS).place(here, tag="v1")
    done = mirror(open_at(here), "v1", open_at(here, "other/pong"), "v1", FAST)
    assert (done.moved_bytes, done.mounted_blobs) == (SIZE, 0)
    assert not here.uploads


def test_a_broken_read_goes_on_at_its_byte(here: Registry, there: Registry, open_at: Callable[..., Repository]) -> None:
    Image(LAYERS).place(here, tag="v1")
    layer = hashlib.sha256(LAYERS[0]).hexdigest()
    here.faults.append(Fault("break", "GET", layer, after=700_000))
    here.faults.append(Fault("status", "GET", layer, status=503))
    done = mirror(open_at(here), "v1", open_at(there), "v1", FAST)
    ranges = [request.headers.get("Range") for request in here.requests if layer in request.path]
    assert ranges == [None, *[f"bytes=700000-{len(LAYERS[0]) - 1}"] * 2]
    assert done.moved_bytes == SIZE
    assert there.received() == SIZE


@pytest.mark.parametrize("generation", [2, 3])
def test_a_broken_upload_goes_on(
    here: Registry, there: Registry, open_at: Callable[..., Repository], generation: int
) -> None:
    there.generation = generation
    digest = Image(LAYERS[:1]).place(here, tag="v1")
    there.faults.append(Fault("cut", "PATCH", skip=2, after=1000))
    done = mirror(open_at(here), "v1", open_at(there), "v1", FAST)
    assert done.image.digest == digest
    assert set(there.blobs) == set(here.blobs)
    if generation == 3:
        assert done.moved_bytes == len(LAYERS[0]) + CONFIG
    assert not there.uploads


def test_a_registry_that_refuses_chunks(here: Registry, there: Registry, open_at: Callable[..., Repository]) -> None:
    there.chunks = False
    digest = Image(LAYERS).place(here, tag="v1")
    assert mirror(open_at(here), "v1", open_at(there), "v1", FAST).image.digest == digest
    assert set(there.blobs) == set(here.blobs)


def test_blobs_that_are_not_their_digest_never_arrive(
    here: Registry, there: Registry, open_at: Callable[..., Repository]
) -> None:
    Image(LAYERS).place(here, tag="v1")
    layer = f"sha256:{hashlib.sha256(LAYERS[0]).hexdigest()}"
    here.blobs[layer] = bytes([LAYERS[0][0] ^ 1]) + LAYERS[0][1:]
    message = sentence(IntegrityError, lambda: mirror(open_at(here), "v1", open_at(there), "v1", FAST))
    assert message.startswith(f"oci://{here.host}/acme/pong has a blob {layer} whose bytes have sha256:")
    assert "nothing was published: that registry, or a mirror or proxy before it, is damaged" in message
    assert layer not in there.blobs
    assert not there.manifests
    assert not there.uploads


def test_the_next_run_sends_only_what_the_last_did_not(
    here: Registry, there: Registry, open_at: Callable[..., Repository]
) -> None:
    digest = Image(LAYERS).place(here, tag="v1")
    there.faults.append(Fault("status", "PUT", "uploads", status=500, skip=3, times=1000))
    with pytest.raises(TemporaryError):
        mirror(open_at(here), "v1", open_at(there), "v1", FAST)
    there.faults.clear()
    arrived = len(there.blobs)
    assert arrived == 3
    assert not there.manifests, "nothing is to be pulled before all of it is there"
    done = mirror(open_at(here), "v1", open_at(there), "v1", FAST)
    assert (done.image.digest, done.reused_blobs) == (digest, arrived)


def test_a_destination_that_is_gone_ends(here: Registry, there: Registry, open_at: Callable[..., Repository]) -> None:
    Image(LAYERS).place(here, tag="v1")
    there.faults.append(Fault("status", "PATCH", status=503, times=1000))
    message = sentence(TemporaryError, lambda: mirror(open_at(here), "v1", open_at(there), "v1", FAST))
    assert f"The registry {there.host} answers 503" in message
    assert there.counted("PATCH") <= 4 * FAST.attempts


def test_a_tag_that_somebody_else_moves(here: Registry, there: Registry, open_at: Callable[..., Repository]) -> None:
    digest = Image(LAYERS).place(here, tag="v1")
    there.faults.append(
        Fault("status", "HEAD", "manifests/v1", status=200, headers={"Docker-Content-Digest": "sha256:" + "0" * 64})
    )
    message = sentence(IntegrityError, lambda: mirror(open_at(here), "v1", open_at(there), "v1", FAST))
    assert f"under the tag where {digest} was put: somebody else writes there; choose another tag" in message


@pytest.mark.parametrize(
    ("kind", "value", "says"),
    [
        (OCI_MANIFEST, [], "is no image manifest, but something else: build the image again."),
        (OCI_MANIFEST, {"layers": []}, "does not say of its config what they are: build the image again."),
        (OCI_MANIFEST, {"config": {"digest": "sha256:" + "0" * 64, "size": 1}}, "does not say of its layers what they"),
        (OCI_INDEX, {"manifests": [{"digest": "x", "size": 1}]}, "does not say of its manifests what they are"),
        (OCI_INDEX, {"manifests": [{"digest": "sha256:" + "0" * 64, "size": -1}]}, "does not say of its manifests"),
    ],
)
def test_images_that_are_none(
    here: Registry, open_at: Callable[..., Repository], kind: str, value: Any, says: str
) -> None:
    here.put_manifest("acme/pong", kind, json.dumps(value).encode(), "v1")
    assert says in sentence(RequestError, lambda: contents(open_at(here), "v1"))


def test_a_document_that_is_no_json(here: Registry, open_at: Callable[..., Repository]) -> None:
    here.put_manifest("acme/pong", OCI_MANIFEST, b"rubbish", "v1")
    assert "is no image manifest, but something else" in sentence(RequestError, lambda: contents(open_at(here), "v1"))


def test_lists_without_an_end(here: Registry, open_at: Callable[..., Repository]) -> None:
    inner = Image(LAYERS[:1]).place(here)
    for _ in range(6):
        data = json.dumps({"manifests": [{"digest": inner, "size": 1}]}).encode()
        inner = here.put_manifest("acme/pong", OCI_INDEX, data)
    assert "lists lists of lists of images: name one of them" in sentence(
        RequestError, lambda: contents(open_at(here), inner)
    )


def test_memory_is_divided_among_the_blobs(
    here: Registry, there: Registry, open_at: Callable[..., Repository], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []

    class Counted(bytearray):
        def __init__(self, size: int) -> None:
            made.append(size)
            super().__init__(size)

    monkeypatch.setattr(mirror_module, "bytearray", Counted, raising=False)
    Image(LAYERS).place(here, tag="v1")
    mirror(open_at(here), "v1", open_at(there), "v1", FAST)
    # Two of the four are larger than a quarter of the room: each has half of it, twice.
    rooms = [min(mirror_module.ROOM // 2, size) for size in (*map(len, LAYERS), CONFIG)]
    assert sorted(made) == sorted([*rooms, *rooms])
    assert not any(thread.name.startswith("airfreight-mirror") for thread in threading.enumerate())
