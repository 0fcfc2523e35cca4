"""An image of somebody else is read again: every wrong and missing blob is named, and reading goes on."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator

import pytest

from airfreight.environment import RegistrySettings
from airfreight.errors import IntegrityError, RequestError, TemporaryError
from airfreight.progress import Progress
from airfreight.retry import Patience
from airfreight.stores.oci.image_check import ImageCheck, check_image
from airfreight.stores.oci.reference import OciImage
from airfreight.stores.oci.registry import Repository
from tests.standins.images import Image, place_index, tar
from tests.standins.registry import Fault, Registry

ZSTD = b"\x28\xb5\x2f\xfd" + random.Random(3).randbytes(5000)  # not read here, and need not be
LAYERS = [tar({"usr/bin/vllm": random.Random(1).randbytes(300_000)}), ZSTD, tar({"models/a": b"1"})]
CONFIG = 37
SIZE = sum(map(len, LAYERS)) + CONFIG
FAST = Patience(attempts=3, base=0.0, longest=0.0)


@pytest.fixture
def registry() -> Iterator[Registry]:
    with Registry() as registry:
        yield registry


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def check(registry: Registry, reference: str, lines: list[str] | None = None) -> ImageCheck:
    repository = Repository(OciImage(registry.host, "acme/pong"), RegistrySettings("/nonexistent/config.json"))
    return check_image(repository, reference, FAST, Progress(lines.append if lines is not None else lambda _: None))


def test_an_image_that_is_right(registry: Registry) -> None:
    digest = Image(LAYERS).place(registry, tag="v1")
    found = check(registry, "v1")
    found.check()
    assert (found.findings, found.read_bytes) == ((), SIZE)
    assert found.result() == {
        "artifact": f"oci://{registry.host}/acme/pong@{digest}", "source": None, "manifest_sha256": None,
        "files": None, "blobs": 4, "size_bytes": SIZE, "read_bytes": SIZE, "wrong": [], "missing": [], "extra": [],
    }  # fmt: skip
    assert registry.counted("GET", "blobs") == 4, "each is read once"


def test_every_wrong_and_missing_blob_is_named(registry: Registry) -> None:
    digest = Image(LAYERS).place(registry)
    whole, short, gone = map(digest_of, LAYERS)
    turned = bytes([LAYERS[0][0] ^ 1]) + LAYERS[0][1:]
    registry.blobs[whole], registry.blobs[short] = turned, b"short"
    registry.links.remove(("acme/pong", gone))
    found = check(registry, digest)
    assert sorted(map(str, found.findings)) == sorted(
        [
            f"wrong    {whole} has {digest_of(turned)}",
            f"wrong    {short} has 5 bytes, the image says {len(ZSTD)}",
            f"missing  {gone}",
        ]
    )
    assert found.read_bytes == len(LAYERS[0]) + CONFIG
    with pytest.raises(IntegrityError) as caught:
        found.check()
    assert caught.value.message == (
        f"oci://{registry.host}/acme/pong@{digest} is not what its digest says of 4 blobs (2 wrong, 1 missing): "
        "remove the image, have the registry's disks checked, and copy it there again."
    )


def test_all_images_of_an_index(registry: Registry) -> None:
    amd, arm = Image(LAYERS).place(registry), Image([*LAYERS, tar({"bin/arm": b"x"})]).place(registry)
    index = place_index(registry, {"linux/amd64": amd, "linux/arm64": arm})
    registry.blobs[digest_of(tar({"bin/arm": b"x"}))] = bytes(len(tar({"bin/arm": b"x"})))
    found = check(registry, index)
    assert [finding.kind for finding in found.findings] == ["wrong"]
    assert (found.image.digest, len(found.contents.blobs)) == (index, 5)


def test_a_broken_read_goes_on_at_its_byte(registry: Registry) -> None:
    reference = Image(LAYERS).place(registry)
    layer = digest_of(LAYERS[0])
    registry.faults.append(Fault("break", "GET", layer, after=100_000))
    assert check(registry, reference).findings == ()
    ranges = [request.headers.get("Range") for request in registry.requests if request.method == "GET"]
    assert f"bytes=100000-{len(LAYERS[0]) - 1}" in ranges


def test_a_registry_that_is_gone_ends_it(registry: Registry) -> None:
    reference = Image(LAYERS).place(registry)
    registry.faults.append(Fault("status", "GET", "blobs", status=503, times=1000))
    with pytest.raises(TemporaryError, match="answers 503"):
        check(registry, reference)


def test_no_image(registry: Registry) -> None:
    with pytest.raises(RequestError, match=r"acme/pong:v1 does not exist: check the repository and the tag"):
        check(registry, "v1")


def test_what_a_person_reads(registry: Registry) -> None:
    lines: list[str] = []
    reference = Image(LAYERS).place(registry)
    repository = Repository(OciImage(registry.host, "acme/pong"), RegistrySettings("/nonexistent/config.json"))
    progress = Progress(lines.append)
    check_image(repository, reference, FAST, progress)
    progress.finish()
    assert lines[-1].startswith("done: 4/4 blobs, ")
