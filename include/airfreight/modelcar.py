"""A model's image made by buildah: the same content and the same identity as the streamed one, other layers.

    the files, verified while they are written ──▶ buildah commits a layer ──▶ sent, and its archive forgotten
                                       one layer after the other ┘                    └ unless the registry has it
    the base, fetched by buildah as the policy allows it ──▶ its layers mounted or sent as they are
    config and image manifest as of a streamed image (`stores.oci.image`), with recipe `buildah/<its version>`

What it costs, beside a streamed image: every layer is written three times to the disk of the pod and read twice, and
there must be room for three times the largest layer. What it gives: bytes that buildah wrote, on a base that passed a
policy of containers-policy.json(5).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from airfreight.buildah import Blob, Buildah
from airfreight.errors import IntegrityError, TemporaryError
from airfreight.interfaces import Source
from airfreight.manifest import Manifest, ManifestFile
from airfreight.progress import Progress
from airfreight.retry import Attempts, LostError, Patience
from airfreight.stores.files import translated
from airfreight.stores.oci.base import BaseSource
from airfreight.stores.oci.image import PlacedLayer, assemble
from airfreight.stores.oci.layers import Layer, manifest_layer, plan
from airfreight.stores.oci.records import EarlierImages
from airfreight.stores.oci.registry import Repository
from airfreight.stores.oci.store import OciStore
from airfreight.transfer import refuse_other

PART = 16 * 1024 * 1024  # bytes that are sent at once, and so the memory


@dataclass(frozen=True)
class Built:
    """What became of a build.

    Attributes:
        artifact: `oci://registry/repository@sha256:…`.
        tag: under which it was published.
        moved_bytes: of files that were read and written into layers.
        reused_files: those whose layers an earlier image had.
        sent_bytes: of layers that the registry did not have.
    """

    artifact: str
    tag: str
    moved_bytes: int = 0
    reused_files: int = 0
    sent_bytes: int = 0


class ModelcarBuild:
    """One build. Used once, by one thread.

    Args:
        source: the model; every byte is verified on its way into a layer.
        target: the repository, and in its image the tag.
        base: what it is built on, by digest; None: nothing, and the image holds /models alone.
        buildah: the tool.
        say: told what happens, one line at a time.
    """

    def __init__(
        self,
        source: Source,
        target: Repository,
        tag: str,
        base: BaseSource | None,
        buildah: Buildah,
        progress: Progress,
        patience: Patience,
        say: Callable[[str], None],
    ) -> None:
        self._source = source
        self._target = target
        self._tag = tag
        self._base = base
        self._buildah = buildah
        self._progress = progress
        self._patience = patience
        self._say = say
        self._moved = self._reused = self._sent = 0

    def run(self, policy: Path | None = None) -> Built:
        """Build the image and publish it, last of all under its tag.

        Args:
            policy: under which buildah fetches the base; None: the one of the system.
        Raises:
            RequestError: the tag means something else, the policy rejects the base, the disk is too small, no right.
            IntegrityError: a file is not as the manifest says; nothing became visible.
            TemporaryError: what did not heal in time.
        """
        manifest = self._patience.call(self._source.manifest)
        if (there := self._present(manifest)) is not None:
            return there
        recipe = f"buildah/{self._buildah.version()}"
        base = None
        if self._base is not None:
            base = self._patience.call(self._base.load)
            name = self._base.image.name
            self._patience.call(lambda: self._buildah.judge(name, policy))
        layers = plan(manifest.files)
        self._buildah.check_room(max(layer.size for layer in layers))
        self._progress.start(len(manifest.files), manifest.size, 0, 0)
        earlier = EarlierImages(self._target, recipe)
        placed = [
            self._place(manifest, layer, f"layer {number} of {len(layers)}", recipe, earlier)
            for number, layer in enumerate(layers, 1)
        ]
        if self._base is not None:
            self._patience.call(partial(self._base.place, self._target))
        self._patience.call(lambda: self._target.put_blob(manifest_layer(manifest)))
        image = assemble(manifest, placed, base, recipe=recipe)
        for config in image.configs:
            self._patience.call(partial(self._target.put_blob, config))
        for document in image.manifests if image.index is not None else ():
            self._patience.call(partial(self._target.put_document, document))
        digest = self._patience.call(lambda: self._target.put_document(image.top, self._tag))
        self._compare(digest, image.top.digest)
        self._progress.finish()
        return self._result(digest)

    def _present(self, manifest: Manifest) -> Built | None:
        """Return what the tag stands for, if it is this version on this base, whoever built it.

        Raises:
            RequestError: it is something else, which is never overwritten.
        """
        place = self._target.image.at(self._tag)
        store = OciStore(place, manifest, self._target, base=self._base)
        sealed = self._patience.call(store.sealed)
        refuse_other(store.artifact, sealed, manifest)
        if sealed is None:
            return None
        self._say(f"{place} is there already: nothing to build.")
        return Built(store.artifact, self._tag, reused_files=len(manifest.files))

    def _place(self, manifest: Manifest, layer: Layer, name: str, recipe: str, earlier: EarlierImages) -> PlacedLayer:
        """Bring one layer into the registry, and say what it is."""
        note = self._patience.call(lambda: earlier.find(layer))
        if note is not None and self._patience.call(lambda: self._target.blob_size(note.digest)) == note.size:
            self._say(f"{name}, {layer.title}: unchanged, in the registry already")
            self._reused += len(layer.files)
            self._progress.present(sum(file.size for file in layer.files))
            for _ in layer.files:
                self._progress.file_done()
            return PlacedLayer.of(layer, note.digest, size=note.size, recipe=recipe)
        self._say(f"{name}, {layer.title}: buildah writes {layer.size / 1024**2:.1f} MiB")
        blob = self._buildah.layer(layer.title, lambda root: self._fill(root, manifest, layer.files))
        if self._patience.call(lambda: self._target.blob_size(blob.digest)) is None:
            self._say(f"{name}, {layer.title}: to the registry")
            self._send(blob)
            self._sent += blob.size
        return PlacedLayer.of(layer, blob.digest, size=blob.size, recipe=recipe)

    def _fill(self, root: Path, manifest: Manifest, files: Sequence[ManifestFile]) -> None:
        """Write files below `root`/models, verified; readable by everybody, whatever their modes were."""
        with translated(f"The layer of {files[0].path} in {self._buildah.work.parent}"):
            for file in files:
                place = root / "models" / file.path
                for directory in reversed([place.parent, *place.parent.parents]):
                    if directory.is_relative_to(root / "models") and not directory.exists():
                        directory.mkdir()
                        directory.chmod(0o755)  # mkdir's mode passes through the umask
                self._patience.call(partial(self._write, place, manifest, file))
                self._progress.file_done()

    def _write(self, place: Path, manifest: Manifest, file: ManifestFile) -> None:
        hasher, size = file.hasher(), 0
        try:
            with closing(self._source.open(file)) as chunks, place.open("wb") as target:
                os.fchmod(target.fileno(), 0o644)
                for chunk in chunks:
                    self._patience.check()
                    hasher.update(chunk)
                    target.write(chunk)
                    size += len(chunk)
                    self._progress.moved(len(chunk))
                    self._progress.tick()
        except TemporaryError:
            self._progress.present(-size)
            raise
        if size != file.size or hasher.hexdigest() != file.digest:
            finding = (
                f"has {file.digest_name} {hasher.hexdigest()}, the manifest says {file.digest}"
                if size == file.size
                else f"has {size} bytes, the manifest says {file.size}"
            )
            raise IntegrityError(
                f"{manifest.source}: {file.path} {finding}; nothing was published: {self._source.server} serves "
                "damaged bytes and must be repaired."
            )
        self._moved += size

    def _send(self, blob: Blob) -> None:
        attempts = Attempts(self._patience)
        while True:
            upload = self._patience.call(lambda: self._target.begin_upload(blob.size))
            try:
                with blob.path.open("rb") as file:
                    while part := file.read(max(PART, upload.least_chunk)):
                        self._patience.call(partial(upload.append, part, file.tell() - len(part)))
                        self._progress.tick()
                self._patience.call(partial(upload.finish, blob.digest))
            except LostError as error:
                upload.cancel()
                attempts.wait_after(error)
            except BaseException:
                upload.cancel()
                raise
            else:
                return

    def _compare(self, said: str, computed: str) -> None:
        """Ask the registry once more: what is pinned is what it holds now."""
        found = self._patience.call(lambda: self._target.resolve(self._tag))
        if not said == computed == found:
            raise IntegrityError(
                f"{self._target.image}:{self._tag} is {found} at the registry, and {computed} was built: somebody else "
                "pushes to this tag, or the registry changes images; end that and build again."
            )

    def _result(self, digest: str) -> Built:
        artifact = str(self._target.image.at(digest))
        return Built(artifact, self._tag, self._moved, self._reused, self._sent)
