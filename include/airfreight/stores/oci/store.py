"""A repository of a registry as a store: each version of a model is one image, its modelcar.

    oci://registry.example/models/acme/pong:41ab6c1b1c1f               the place: the tag is the version
    oci://registry.example/models/acme/pong@sha256:<64 hex>            the artifact: what is served

A layer is what travels (`Store.bundles`): its files are hashed as they pass and its blob becomes visible with the PUT
that ends it, after the last file was right (`uploads`). A layer that the registry has is not sent again, whoever put it
there: its digest is told by the notes of the ledger or by earlier images (`records`), and one HEAD shows that it is in
this repository. One of another repository of the same registry is mounted. The image manifest is written last, by its
digest and then by its tag; a tag that stands for another version is never moved.

Registries cannot write on a condition, so of two runs that end at the same moment both write; they write the same
bytes, for an image is a function of manifest, base and recipe (`image`).
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from airfreight.checkpoint import ChangedError, name, parse
from airfreight.errors import RequestError
from airfreight.leases import Leases, Tenure
from airfreight.manifest import Manifest, ManifestFile
from airfreight.retry import LostError
from airfreight.stores.oci.base import BaseSource
from airfreight.stores.oci.file_upload import FileUpload
from airfreight.stores.oci.image import PlacedLayer, assemble, digest_of
from airfreight.stores.oci.layers import Layer, manifest_layer, plan
from airfreight.stores.oci.records import EarlierImages, Ledger, Note
from airfreight.stores.oci.reference import OciImage
from airfreight.stores.oci.registry import Repository
from airfreight.stores.oci.sealed_image import is_sound, read_sealed
from airfreight.stores.oci.uploads import SMALL, LayerUpload, part_size_for, subject
from airfreight.transfer import refuse_other

CONNECTIONS = 8
PROBE = "probe"
_ANY_SIZE = 2**62  # bytes; of an upload that is only cancelled

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class OciStore:
    """One version of one model as an image (a `Store`).

    Args:
        place: repository and tag.
        manifest: what is to be delivered: the layers follow from all of it.
        repository: of `place`.
        base: what the image is built on; None: nothing, and it holds /models alone.
        ledger: where checkpoints and notes lie; by default in the memory of this process.
        tenure: who holds leases, and for how long.
        part_size: bytes of a part; a multiple of 64. By default what `part_size_for` says.
    """

    def __init__(
        self,
        place: OciImage,
        manifest: Manifest,
        repository: Repository,
        *,
        base: BaseSource | None = None,
        ledger: Ledger | None = None,
        tenure: Tenure | None = None,
        part_size: int | None = None,
    ) -> None:
        self._place = place
        self._tag = place.tag or manifest.version
        self._sha256 = manifest.sha256
        self._layers = {file: layer for layer in plan(manifest.files) for file in layer.files}
        self._repository = repository
        self._base = base
        self._ledger = ledger or Ledger.in_memory()
        self._shelf = self._ledger.checkpoints(str(place))
        self._leases = Leases(str(place), self._shelf, tenure or Tenure())
        self._earlier = EarlierImages(repository)
        self._part_size = part_size or part_size_for(set(self._layers.values()))
        self._lock = threading.Lock()
        self._notes: dict[str, Note] = {}  # of layers that are in this repository, by key
        self._open: dict[str, LayerUpload] = {}
        self._digest: str | None = None
        self._sent = 0
        self._others: tuple[Mapping[str, Any], ...] = ()  # layers of the sealed image, where they are not ours

    @property
    def artifact(self) -> str:
        """`oci://registry/repository@sha256:…` once the image is there, until then the place, by its tag."""
        return str(self._place.at(self._digest or self._tag))

    def facts(self) -> dict[str, object]:
        """Return what a result tells of an image beside the artifact: its tag, its digest, and what this run sent."""
        return {"tag": self._tag, "image_digest": self._digest, "sent_bytes": self._sent}

    def sealed(self) -> Manifest | None:
        """See `Store.sealed`, and `sealed_image` for what is asked. An image of this version that cannot be pulled is
        none: what it lacks is sent, and it is sealed again.

        Raises:
            RequestError: the tag stands for an image that is not ours, or for this version on another base.
        """
        found = read_sealed(self._repository, self._tag)
        if found is None:
            return None
        self._check_base(found.base)
        if found.manifest.sha256 == self._sha256 and not is_sound(self._repository, found):
            self._digest, self._others = None, ()
            return None
        self._digest, self._others = found.digest, found.others
        with self._lock:
            self._notes |= found.notes
        return found.manifest

    def bundles(self, files: Sequence[ManifestFile]) -> list[tuple[ManifestFile, ...]]:
        """See `Store.bundles`. The files of one layer travel together."""
        return [layer.files for layer in self._layers_of(files)]

    def held(self, files: Sequence[ManifestFile]) -> frozenset[str]:
        """See `Store.held`. A look into the ledger and a HEAD for each layer whose digest is known; nothing more for a
        sealed image whose layers are not ours: `sealed` has looked at them.
        """
        if self._others:
            return frozenset(file.path for file in files if file in self._layers)
        found = self._each(self._is_here, self._layers_of(files))
        there = {file for layer, here in found if here for file in layer.files}
        return frozenset(file.path for file in files if file in there)

    def elsewhere(self, files: Sequence[ManifestFile]) -> frozenset[str]:
        """See `Store.elsewhere`. A HEAD for each layer that another repository of this registry is known to have."""
        found = self._each(self._origin, self._layers_of(files))
        there = {file for layer, origin in found if origin is not None for file in layer.files}
        return frozenset(file.path for file in files if file in there)

    def reuse(self, file: ManifestFile) -> bool:
        """See `Store.reuse`. The layer is mounted from the other repository."""
        layer = self._layer_of(file)
        with self._lock:
            if layer.key in self._notes:
                return True
        note = self._origin(layer)
        if note is None or not self._repository.mount(note.digest, note.repository.partition("/")[2]):
            return False
        if self._repository.blob_size(note.digest) != note.size:
            return False
        self._keep(layer, note.digest, note.size)
        return True

    def prepare(self, files: Sequence[ManifestFile]) -> None:  # noqa: ARG002
        """See `Store.prepare`. An upload is begun and cancelled, the ledger is written to, and the base is read."""
        self._repository.begin_upload(1).cancel()
        with contextlib.suppress(ChangedError):  # another run does the same
            self._shelf.remove(PROBE, self._shelf.write(PROBE, b"{}", None))
        if self._base is not None:
            self._base.load()

    def begin(self, file: ManifestFile) -> FileUpload:
        """See `Store.begin`."""
        layer = self._layer_of(file)
        with self._lock:
            upload = self._open.get(layer.key)
        if upload is None or upload.over:
            small = layer.size <= min(SMALL, self._part_size)
            claim = None if small else self._leases.claim(subject(layer))
            upload = LayerUpload(
                self._repository, layer, claim, self._part_size, self._keep, self._placed_by_now, self._count
            )
            with self._lock:
                self._open[layer.key] = upload
        return FileUpload(upload, file)

    def seal(self, manifest: Manifest) -> str:
        """See `Store.seal`. The layers of the base are brought here, then config, image manifest and index written."""
        refuse_other(self.artifact, self.sealed(), manifest)
        if self._others:
            return self.artifact
        layers = plan(manifest.files)
        if len(self.held(manifest.files)) < len(manifest.files):
            raise RequestError(f"{self._place} lacks layers of {manifest.source}: copy it there first, every slice.")
        base = None
        if self._base is not None:
            base = self._base.load()
            self._base.place(self._repository)
        self._put(manifest_layer(manifest))
        image = assemble(manifest, [PlacedLayer.of(layer, self._notes[layer.key].digest) for layer in layers], base)
        for config in image.configs:
            self._put(config)
        for document in image.manifests:
            if document is not image.top:
                self._repository.put_document(document)
        self._repository.put_document(image.top, self._tag)
        # Read back what everybody will read from now on.
        refuse_other(self.artifact, self.sealed(), manifest)
        return self.artifact

    def renew(self) -> None:
        """See `Store.renew`."""
        self._leases.renew()

    def tidy(self, files: Sequence[ManifestFile]) -> None:
        """See `Store.tidy`. One LIST of the ledger, where nothing is left."""
        layers = self._layers_of(files)
        for claim in self._leases.leftovers([subject(layer) for layer in layers]):
            found = claim.checkpoint
            claim.drop(lambda found=found: self._cancel(found.upload_id))  # type: ignore[misc]
        known = {name(subject(layer)): layer for layer in layers}
        for label in self._shelf.names():
            there = self._shelf.read(label)
            layer = known.get(label)
            # A lease that covers nothing more: its holder was killed after the layer was whole.
            if there is not None and layer is not None and parse(there).offset == subject(layer).size:
                with self._lock:
                    whole = layer.key in self._notes
                if whole:
                    self._shelf.remove(label, there.tag)

    def _cancel(self, location: str) -> None:
        """Drop an upload of a dead run; it may be gone already, or its registry may keep none."""
        if location:
            with contextlib.suppress(LostError):
                self._repository.resume_upload(location, _ANY_SIZE).cancel()

    def _layer_of(self, file: ManifestFile) -> Layer:
        return self._layers.get(file) or Layer((file,))

    def _layers_of(self, files: Iterable[ManifestFile]) -> list[Layer]:
        return list({layer.key: layer for layer in map(self._layer_of, files)}.values())

    def _is_here(self, layer: Layer) -> bool:
        """Whether this repository has a layer."""
        note = self._note_of(layer)
        if note is None or self._repository.blob_size(note.digest) != note.size:
            with self._lock:
                self._notes.pop(layer.key, None)
            return False
        with self._lock:
            self._notes[layer.key] = note
        return True

    def _placed_by_now(self, layer: Layer) -> str | None:
        """Return the digest of a layer that another run has noted and placed here."""
        note = self._ledger.find(layer)
        return note.digest if note is not None and self._is_here(layer) else None

    def _origin(self, layer: Layer) -> Note | None:
        """Return what another repository of this registry has of a layer."""
        note = self._ledger.find(layer)
        if note is None or not note.fits(layer):
            return None
        registry, _, repository = note.repository.partition("/")
        here = self._repository.image
        if registry != here.registry or repository == here.repository:
            return None
        there = self._repository.beside(OciImage(registry, repository))
        with contextlib.suppress(RequestError):  # no right to read there: then nothing can be had from there
            return note if there.blob_size(note.digest) == note.size else None
        return None

    def _note_of(self, layer: Layer) -> Note | None:
        with self._lock:
            note = self._notes.get(layer.key)
        note = note or self._ledger.find(layer)
        if note is None or not note.fits(layer):
            note = self._earlier.find(layer)
        return note if note is not None and note.fits(layer) else None

    def _keep(self, layer: Layer, digest: str, size: int | None = None) -> None:
        """Note that a layer is in this repository now."""
        note = Note(digest, layer.size if size is None else size, self._repository.image.name)
        self._ledger.keep(layer, note)
        with self._lock:
            self._notes[layer.key] = note

    def _count(self, sent: int) -> None:
        with self._lock:
            self._sent += sent

    def _put(self, data: bytes) -> None:
        if self._repository.blob_size(digest_of(data)) is None:
            self._repository.put_blob(data)
            self._count(len(data))

    def _check_base(self, found: str | None) -> None:
        wanted = self._base.digest if self._base is not None else None
        if found != wanted:
            raise RequestError(
                f"{self._place} is this version on {_base_text(found)}, not on {_base_text(wanted)}, and a version is "
                "never overwritten: give the same --base, or another tag after the repository."
            )

    def _each(self, look: Callable[[Item], Answer], items: Sequence[Item]) -> Iterator[tuple[Item, Answer]]:
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            yield from zip(items, list(pool.map(look, items)), strict=True)


def _base_text(digest: str | None) -> str:
    return f"the base {digest[:19]}…" if digest is not None else "no base"
