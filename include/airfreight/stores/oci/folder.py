"""An image as a source: what lies in its /models, whoever built it.

    GET manifests/{tag or digest}       the image manifest; of an index, that of linux/amd64, else the first real one
    GET blobs/{last layer}  Range:      models/airfreight.json, where Airfreight built it: then the manifest says it all
    GET blobs/{layer}       Range:      headers of archives, then files, see `layer_reader`

An image that is not ours has no airfreight.json. Its layers are then read in whole, once: so they are verified by their
digests, and the files in them are hashed in the same pass, which is their identity (`digests`).

The files are those that a container would see, see `merged`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from typing import Any

from airfreight.environment import RegistrySettings
from airfreight.errors import IntegrityError, RequestError
from airfreight.manifest import MANIFEST_NAME, Manifest
from airfreight.reading import Entry, is_reserved
from airfreight.stores.oci.layer_reader import Layer, LayerReader
from airfreight.stores.oci.merged import TOP, Found, lay, target_of
from airfreight.stores.oci.reference import OciImage, is_digest
from airfreight.stores.oci.registry import Document, Repository
from airfreight.stores.oci.tar_scan import Kind, Member

MANIFEST_LIMIT = 256 * 1024 * 1024  # bytes; 100,000 files take about 20 MB
LAST_LAYER_LIMIT = 32 * 1024 * 1024  # bytes of a last layer that may be an airfreight.json; larger ones hold a model
MANIFEST_SHA256 = "airfreight.dev/manifest-sha256"
PREFERRED = ("linux", "amd64")


class OciFolder:
    """The files below /models of one image (a `Folder`).

    Args:
        image: by tag or digest; a tag is resolved once.
        settings: logins, and which registries are spoken plain http with.
        repository: to use instead of one of its own, over its connections.
    """

    def __init__(self, image: OciImage, settings: RegistrySettings, repository: Repository | None = None) -> None:
        self._asked = image
        self._repository = repository or Repository(image, settings)
        self._lock = threading.RLock()
        self._digest: str | None = None
        self._image: dict[str, Any] | None = None
        self._layers: list[LayerReader] | None = None
        self._tree: dict[str, Found] | None = None
        self._looked: dict[int, LayerReader] = {}  # by number of the layer, for `paths`
        self._unread: dict[int, str] = {}

    @property
    def root(self) -> OciImage:
        """`oci://registry/repository@sha256:…` once it was resolved; until then as it was asked for."""
        return self._asked if self._digest is None else self._asked.at(self._digest)

    def recorded(self) -> Manifest | None:
        """See `Folder.recorded`. Reads the last layer, which is small in an image of ours."""
        data = self._recorded_bytes()
        if data is None:
            return None
        try:
            return Manifest.from_json(data)
        except ValueError as error:
            raise RequestError(
                f"{self.root} holds an {MANIFEST_NAME} that is not a manifest of airfreight ({error}): build the image "
                "again, or give another address."
            ) from error

    def told(self) -> Manifest | None:
        """Return what the airfreight.json says that ends an image of ours; None where none lies there.

        For whoever carries an image as it is, or compares its digests: nothing but a small last layer is read.

        Raises:
            RequestError: there is no such image, or it says that it is ours and is not.
            IntegrityError: an airfreight.json is not the one that the image says.
            TemporaryError: it cannot be read now.
        """
        if self._is_ours():
            return self.recorded()
        # Tools that turn an image into Docker's form drop its annotations and keep its layers.
        for described in self._manifest()["layers"][-1:]:
            # No archive, packed with zstd, no airfreight.json; damaged, which shows when it is carried or compared.
            with contextlib.suppress(RequestError, IntegrityError, ValueError):
                (layer,) = _layers(self.root, {"layers": [described]})
                if layer.size <= LAST_LAYER_LIMIT:
                    reader = LayerReader(self._repository, layer, whole=True)
                    members = {member.path: member for member in reader.members()}
                    member = members.get(f"{TOP}/{MANIFEST_NAME}")
                    return None if member is None else Manifest.from_json(self._small(member, reader, None))
        return None

    def paths(self) -> tuple[list[str], str]:
        """Return the paths below /models, sorted, of any image, and why some of its layers could not be looked into.

        For whoever carries an image as it is: of plain layers only the headers are read, packed ones to their end. A
        layer that tells nothing takes nothing out of those below it either.

        Raises:
            RequestError: there is no such image.
            TemporaryError: it cannot be read now; what was read so far is kept for the next call.
        """
        tree: dict[str, Found] = {}
        with self._lock:
            for number, described in enumerate(self._manifest()["layers"]):
                if number in self._unread:
                    continue
                try:
                    if number not in self._looked:
                        (layer,) = _layers(self.root, {"layers": [described]})
                        self._looked[number] = LayerReader(self._repository, layer, whole=False)
                    lay(tree, self._looked[number])
                except (RequestError, IntegrityError) as error:
                    self._unread[number] = error.message
            problem = next(iter(self._unread.values()), "")
        top = f"{TOP}/"
        paths = [
            path.removeprefix(top)
            for path, thing in tree.items()
            if path.startswith(top) and thing.member.kind is not Kind.DIRECTORY
        ]
        return sorted(paths), problem

    def listing(self) -> Mapping[str, Entry]:
        """See `Folder.listing`. Reads the headers of all layers; of an image that is not ours, all bytes, once.

        Raises:
            RequestError, IntegrityError, TemporaryError: as `LayerReader.members`.
        """
        tree = self._merged()
        found: dict[str, Entry] = {}
        for path, thing in tree.items():
            relative = path.removeprefix(f"{TOP}/")
            if relative == path or is_reserved(relative) or thing.member.kind is Kind.DIRECTORY:
                continue
            target, problem = target_of(tree, path)
            found[relative] = Entry(0, problem) if target is None else Entry(target.member.size)
        return found

    def digests(self) -> Mapping[str, str]:
        """Return the sha256, in hex, of files whose whole layer was read and verified, by relative path."""
        tree = self._merged()
        found = {}
        for path in tree:
            target, _ = target_of(tree, path)
            if path.startswith(f"{TOP}/") and target is not None and target.member.sha256 is not None:
                found[path.removeprefix(f"{TOP}/")] = target.member.sha256
        return found

    def read(self, path: str, size: int, offset: int = 0) -> Generator[bytes, None, None]:
        """See `Folder.read`. A ranged GET, where the layer is a plain tar."""
        target, problem = self._find(path)
        if target is None:
            raise RequestError(
                f"{self.root} holds {path}, which {problem}: put the file itself there, or build the image again."
                if problem
                else f"{self.root} holds no {path}: build the image again, or give another address."
            )
        if target.member.size != size:
            raise IntegrityError(
                f"{path} of {self.root} has {target.member.size} bytes where {size} were expected; nothing was "
                "published: the image was not built from what it says; build it again."
            )
        with closing(target.layer.read(target.member, offset)) as chunks:
            yield from chunks

    def _recorded_bytes(self) -> bytes | None:
        image = self._manifest()
        named = (image.get("annotations") or {}).get(MANIFEST_SHA256)
        ours = self._readers(whole=False)[-1:] if named else []
        members = [(member, layer) for layer in ours for member in layer.members()]
        found = [(member, layer) for member, layer in members if member.path == f"{TOP}/{MANIFEST_NAME}"]
        if not found and named:
            raise RequestError(
                f"{self.root} says that it was built by airfreight and has no {MANIFEST_NAME} in its last layer: "
                "somebody changed it; build the image again."
            )
        if not found:
            target, _ = target_of(self._merged(), f"{TOP}/{MANIFEST_NAME}")
            found = [] if target is None else [(target.member, target.layer)]
        if not found:
            return None
        member, layer = found[-1]
        return self._small(member, layer, named)

    def _small(self, member: Member, layer: LayerReader, sha256: str | None) -> bytes:
        if member.size > MANIFEST_LIMIT:
            raise RequestError(
                f"{self.root} holds an {MANIFEST_NAME} of {member.size} bytes, which is none of airfreight: give "
                "another address."
            )
        with closing(layer.read(member, 0)) as chunks:
            data = b"".join(chunks)
        found = hashlib.sha256(data).hexdigest()
        if sha256 is not None and found != sha256:
            raise IntegrityError(
                f"{self.root} holds an {MANIFEST_NAME} with sha256 {found}, its annotation says {sha256}; nothing was "
                "published: the registry is damaged, or the image was changed; build it again."
            )
        return data

    def _find(self, path: str) -> tuple[Found | None, str]:
        """Return the file behind a path, without reading more layers than need be."""
        with self._lock:
            for layer in self._readers() if self._tree is None and self._is_ours() else []:
                if layer.layer.annotations.get("org.opencontainers.image.title") == path:
                    for member in layer.members():
                        if member.path == f"{TOP}/{path}" and member.kind is Kind.FILE:
                            return Found(member, layer), ""
        return target_of(self._merged(), f"{TOP}/{path}")

    def _is_ours(self) -> bool:
        return MANIFEST_SHA256 in (self._manifest().get("annotations") or {})

    def _manifest(self) -> dict[str, Any]:
        """Return the image manifest, of one platform."""
        with self._lock:
            if self._image is not None:
                return self._image
            reference = self._digest or self._asked.reference or "latest"
            document = self._repository.document(reference)
            self._digest = document.digest
            if document.is_index:
                document = self._repository.document(_preferred(self.root, _parsed(self.root, document)))
            image = _parsed(self.root, document)
            if not isinstance(image.get("layers"), list):
                raise RequestError(f"{self.root} is an image manifest without layers: build the image again.")
            self._image = image
            return image

    def _readers(self, whole: bool | None = None) -> list[LayerReader]:
        with self._lock:
            if self._layers is None:
                whole = not self._is_ours() if whole is None else whole
                self._layers = [
                    LayerReader(self._repository, layer, whole) for layer in _layers(self.root, self._manifest())
                ]
            return self._layers

    def _merged(self) -> dict[str, Found]:
        """Return what a container would see, by path."""
        with self._lock:
            if self._tree is None:
                tree: dict[str, Found] = {}
                for layer in self._readers():
                    lay(tree, layer)
                if not any(path == TOP or path.startswith(f"{TOP}/") for path in tree):
                    raise RequestError(
                        f"{self.root} holds no /{TOP}, where KServe looks for a model: name the image of a model."
                    )
                self._tree = tree
            return self._tree


def _parsed(root: OciImage, document: Document) -> dict[str, Any]:
    try:
        value = json.loads(document.data)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise RequestError(f"{root} is no image manifest, but something else: build the image again.")
    return value


def _preferred(root: OciImage, index: Mapping[str, Any]) -> str:
    """Choose an image of an index: weights are the same on every platform."""
    images = [
        (platform.get("os"), platform.get("architecture"), entry.get("digest"))
        for entry in index.get("manifests") or []
        if isinstance(entry, dict) and isinstance(platform := entry.get("platform") or {}, dict)
    ]
    real = [(system, machine, digest) for system, machine, digest in images if system != "unknown"]
    chosen = [digest for *platform, digest in real if tuple(platform) == PREFERRED] or [digest for *_, digest in real]
    if not chosen or not is_digest(str(chosen[0])):
        raise RequestError(f"{root} is an index without an image: build the image again.")
    return str(chosen[0])


def _layers(root: OciImage, image: Mapping[str, Any]) -> Iterator[Layer]:
    for entry in image["layers"]:
        try:
            layer = Layer(
                str(entry["mediaType"]), str(entry["digest"]), int(entry["size"]), entry.get("annotations") or {}
            )
        except (KeyError, TypeError, ValueError, AttributeError):
            raise RequestError(f"{root} has a layer that is not described as one: build the image again.") from None
        if not layer.is_archive or not is_digest(layer.digest):
            raise RequestError(
                f"{root} has a layer of the kind {layer.media_type}, which holds no files: name the image of a model, "
                "as container tools build it."
            )
        yield layer
