"""Which layer a file became: notes beside the checkpoints, and the annotations of images that are there already.

A layer's digest is only known when all its bytes were hashed, yet what is in it is known before (`layers.Layer.key`).
So the digest is noted under that key, and an unchanged shard of the next version costs one HEAD, no byte and no hash:

    s3://llm-models/.airfreight/uploads/…                 checkpoints of layers under way (`airfreight.checkpoint`)
    s3://llm-models/.airfreight/layers/<key>.json         {"digest": "sha256:71d0…", "format": 1,
                                                           "recipe": "airfreight/1",
                                                           "repository": "registry.example/models/acme/pong",
                                                           "size": 8388738048, "title": "model.safetensors"}

Both lie in a *ledger*: the root of a store, in a bucket or a directory, which need not be one that models are served
from. Without one they lie in the memory of this process and end with it. What earlier images of the same repository say
of their layers is believed too, as far as their recipe is ours and the layer is plain: tools that pack an image keep
its annotations.

A note is only believed where the registry has a blob of that digest and size, and of ours only with the size that our
archive has (`Note.fits`).
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from airfreight.checkpoint import ChangedError, Shelf, Stored, folder
from airfreight.errors import RequestError
from airfreight.manifest import RESERVED_DIRECTORY
from airfreight.stores.oci.image import LAYER_KEY, RECIPE_NAME
from airfreight.stores.oci.layers import RECIPE, Layer
from airfreight.stores.oci.reference import is_digest
from airfreight.stores.oci.registry import OCI_LAYER, Document, Repository

FORMAT = 1
LAYERS = f"{RESERVED_DIRECTORY}/layers/"
VERSIONS_LIMIT = 100  # images of one repository that are looked at
CONNECTIONS = 8


@dataclass(frozen=True)
class Note:
    """What is known of a layer.

    Attributes:
        digest: `sha256:<64 hex>`.
        size: bytes of its archive.
        repository: `registry/repository` where it was seen last.
    """

    digest: str
    size: int
    repository: str

    def fits(self, layer: Layer) -> bool:
        """Whether this can be the archive that we would write: one of another size is packed, or somebody else's."""
        return self.size == layer.size


@dataclass
class MemoryShelf:
    """Checkpoints, or notes, in the memory of this process (a `checkpoint.Shelf`): for runs without a ledger."""

    _objects: dict[str, tuple[bytes, int, float]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _writes: int = 0

    def read(self, name: str) -> Stored | None:
        """See `checkpoint.Shelf.read`."""
        with self._lock:
            if name not in self._objects:
                return None
            data, tag, written = self._objects[name]
            return Stored(data, str(tag), time.monotonic() - written)

    def write(self, name: str, data: bytes, tag: str | None) -> str:
        """See `checkpoint.Shelf.write`."""
        with self._lock:
            there = self._objects.get(name)
            if (str(there[1]) if there is not None else None) != tag:
                raise ChangedError
            self._writes += 1
            self._objects[name] = (data, self._writes, time.monotonic())
            return str(self._writes)

    def remove(self, name: str, tag: str) -> None:
        """See `checkpoint.Shelf.remove`."""
        with self._lock:
            if name in self._objects and str(self._objects[name][1]) == tag:
                del self._objects[name]

    def names(self) -> list[str]:
        """See `checkpoint.Shelf.names`."""
        with self._lock:
            return sorted(self._objects)


class Ledger:
    """Where checkpoints and notes lie.

    Args:
        shelf: makes the shelf of a folder, given relative to the ledger's root, with a slash at its end.
        lasting: whether what is written there outlives this process.
    """

    def __init__(self, shelf: Callable[[str], Shelf], lasting: bool = True) -> None:
        self.lasting = lasting
        self._make = shelf
        self._notes = shelf(LAYERS)

    @classmethod
    def in_memory(cls) -> Ledger:
        """Return one that ends with this process."""
        return cls(lambda _: MemoryShelf(), lasting=False)

    def checkpoints(self, artifact: str) -> Shelf:
        """Return the shelf of the checkpoints of one artifact."""
        return self._make(folder(artifact))

    def find(self, layer: Layer) -> Note | None:
        """Return what is noted of a layer. One GET.

        Raises:
            RequestError, TemporaryError: the ledger cannot be read.
        """
        there = self._notes.read(f"{layer.key}.json")
        return _parse(there.data) if there is not None else None

    def keep(self, layer: Layer, note: Note) -> None:
        """Note where a layer is; what was noted before is replaced.

        Raises:
            RequestError, TemporaryError: the ledger cannot be written.
        """
        value = {
            "digest": note.digest,
            "format": FORMAT,
            "recipe": RECIPE,
            "repository": note.repository,
            "size": note.size,
            "title": layer.title,
        }
        data, name = json.dumps(value, sort_keys=True, ensure_ascii=False).encode(), f"{layer.key}.json"
        there = self._notes.read(name)
        if there is None or there.data != data:
            with contextlib.suppress(ChangedError):  # another run notes the same
                self._notes.write(name, data, there.tag if there is not None else None)


class EarlierImages:
    """What the images of one repository say of their layers; read once, and only if it is needed.

    Args:
        recipe: whose layers are wanted.
    """

    def __init__(self, repository: Repository, recipe: str = RECIPE) -> None:
        self._repository = repository
        self._recipe = recipe
        self._lock = threading.Lock()
        self._found: dict[str, Note] | None = None

    def find(self, layer: Layer) -> Note | None:
        """Return what is said of a layer; nothing, where the tags may not be listed. At first one request, and one or
        two for each tag.

        Raises:
            TemporaryError: the registry cannot be read now.
        """
        with self._lock:
            if self._found is None:
                self._found = dict(self._read())
            return self._found.get(layer.key_by(self._recipe))

    def _read(self) -> Iterator[tuple[str, Note]]:
        try:
            tags = self._repository.tags()[-VERSIONS_LIMIT:]
        except RequestError:
            return  # robots may often push and pull but not list: then every layer is sent, as if there were no images
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            for layers in pool.map(self._of_tag, tags):
                yield from layers

    def _of_tag(self, tag: str) -> list[tuple[str, Note]]:
        try:
            image = one_image(self._repository, self._repository.document(tag))
            return list(notes_of(image, self._repository.image.name, self._recipe))
        except (RequestError, ValueError, KeyError, TypeError, AttributeError):
            return []  # no image, none of ours, or gone meanwhile: nothing to learn from it


def one_image(repository: Repository, document: Document) -> dict[str, Any]:
    """Return an image manifest as JSON: the document itself, or the first that an index names.

    Raises:
        RequestError: there is none.
    """
    value: dict[str, Any] = json.loads(document.data)
    if not document.is_index:
        return value
    for entry in value.get("manifests", []):
        return dict(json.loads(repository.document(entry["digest"]).data))
    raise RequestError(f"{repository.image}@{document.digest} is an index of no image: give another image.")


def notes_of(image: dict[str, Any], repository: str, recipe: str = RECIPE) -> Iterator[tuple[str, Note]]:
    """Yield the layers of an image manifest that were written by a recipe, by their keys.

    A layer that was packed since keeps its annotations and has another digest: only plain ones are what they say.
    """
    if (image.get("annotations") or {}).get(RECIPE_NAME) != recipe:
        return
    for layer in image.get("layers", []):
        key = (layer.get("annotations") or {}).get(LAYER_KEY)
        if key is not None and layer.get("mediaType") == OCI_LAYER and is_digest(str(layer.get("digest"))):
            yield key, Note(layer["digest"], int(layer["size"]), repository)


def _parse(data: bytes) -> Note | None:
    """Read a note; what is none, or of a later airfreight, says nothing."""
    try:
        value = json.loads(data)
        if value["format"] != FORMAT or value["recipe"] != RECIPE or not is_digest(value["digest"]):
            return None
        return Note(value["digest"], int(value["size"]), str(value["repository"]))
    except (ValueError, KeyError, TypeError):
        return None
