"""A registry that stands in, a ledger in memory, and stores between them: for the tests of images."""

from __future__ import annotations

import io
import json
import tarfile
from typing import Any

from airfreight.environment import RegistrySettings
from airfreight.leases import Tenure
from airfreight.manifest import Manifest
from airfreight.retry import Patience
from airfreight.stores.oci.base import BaseSource
from airfreight.stores.oci.records import Ledger, MemoryShelf
from airfreight.stores.oci.reference import OciImage, parse_image
from airfreight.stores.oci.registry import Repository
from airfreight.stores.oci.store import OciStore
from airfreight.transfer import copy
from tests.standins.registry import Registry
from tests.unit.memory_store import COMMIT, MemorySource, describe

MODEL = {
    "model-1.safetensors": bytes(range(256)) * 100,
    "model-2.safetensors": bytes(range(255)) * 200,
    "config.json": b'{"model_type": "qwen2"}',
    "nested/größe.txt": b"x" * 3000,
    "tokenizer.json": b"y" * 9000,
    "empty.txt": b"",
}
SIZE = sum(map(len, MODEL.values()))
NO_LOGINS = RegistrySettings("/nonexistent/config.json")
PART = 4096
FAST = Patience(base=0.001, longest=0.002)


class Yard:
    """A registry, a ledger, and stores between them."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.shelves: dict[str, MemoryShelf] = {}
        self.ledger = Ledger(lambda folder: self.shelves.setdefault(folder, MemoryShelf()))

    def image(self, repository: str = "models/acme/pong", tag: str | None = COMMIT[:12]) -> OciImage:
        return OciImage(self.registry.host, repository, tag=tag)

    def store(
        self,
        manifest: Manifest | None = None,
        *,
        image: OciImage | None = None,
        ledger: Ledger | None = None,
        base: BaseSource | None = None,
        tenure: Tenure | None = None,
    ) -> OciStore:
        place = image or self.image(tag=(manifest or describe(MODEL)).version)
        return OciStore(
            place,
            manifest or describe(MODEL),
            Repository(place, NO_LOGINS),
            ledger=ledger or self.ledger,
            base=base,
            tenure=tenure,
            part_size=PART,
        )

    def document(self, reference: str = COMMIT[:12], repository: str = "models/acme/pong") -> dict[str, Any]:
        image = self.image(repository)
        return dict(json.loads(Repository(image, NO_LOGINS).document(reference).data))

    def files(self, store: OciStore) -> dict[str, bytes]:
        """Unpack all layers of an image one over the other."""
        image = parse_image("", store.artifact)
        return unpacked(Repository(image, NO_LOGINS), str(image.digest))


def unpacked(repository: Repository, digest: str) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for layer in json.loads(repository.document(digest).data)["layers"]:
        with tarfile.open(fileobj=io.BytesIO(repository.read_blob(layer["digest"], 2**30))) as tar:
            found |= {m.name: tar.extractfile(m).read() for m in tar if m.isfile()}  # type: ignore[union-attr]
    return {name.removeprefix("models/"): data for name, data in found.items()}


def paths_in(data: bytes) -> dict[str, bytes]:
    """Return the files of a blob, where it is a layer."""
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
            return {m.name.removeprefix("models/"): tar.extractfile(m).read() for m in tar if m.isfile()}  # type: ignore[union-attr]
    except tarfile.TarError:
        return {}


def carry(yard: Yard, contents: dict[str, bytes] | None = None, commit: str = COMMIT, **options: Any) -> OciStore:
    """Copy a model as the command does; return the store."""
    contents = contents or MODEL
    manifest = describe(contents, commit)
    store = yard.store(manifest, **options)
    copy(MemorySource(contents, manifest), store, patience=FAST)
    return store
