"""From an address to what stands behind it: the one place where sources and stores are chosen by their scheme.

Settings are read from the environment here, as late as they are needed: a copy between directories asks for neither a
hub nor a bucket. Imports are late for the same reason, and because `airfreight --help` shall be fast.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from airfreight.environment import HubSettings, RegistrySettings, S3Settings
from airfreight.errors import RequestError
from airfreight.source import DirectoryRoot, HubModel, Origin, Place, Root, S3Root, parse_any_destination
from airfreight.stores.oci.reference import OciImage, OciRoot

if TYPE_CHECKING:
    from collections.abc import Iterable

    from airfreight.leases import Tenure
    from airfreight.manifest import Manifest
    from airfreight.patterns import Patterns
    from airfreight.prechecks import Limits
    from airfreight.progress import Progress
    from airfreight.reading import Folder, FolderSource
    from airfreight.retry import Patience
    from airfreight.stores.directory import DirectoryStore
    from airfreight.stores.hub import HubSource
    from airfreight.stores.oci.records import Ledger
    from airfreight.stores.oci.registry import Repository
    from airfreight.stores.oci.store import OciStore
    from airfreight.stores.s3 import S3Store


@dataclass(frozen=True)
class Registries:
    """What a command says of registries beside their addresses.

    Attributes:
        base: what images are built on, by its digest; None: on nothing.
        ledger: root of a store where checkpoints and notes of images lie; None: in the memory of this process.
        plain_http: registries that are spoken plain http with, beside those of the environment.
    """

    base: OciImage | None = None
    ledger: S3Root | DirectoryRoot | None = None
    plain_http: frozenset[str] = frozenset()

    @classmethod
    def of(cls, places: Iterable[object], base: str | None, ledger: str | None, plain_http: bool) -> Self:
        """Read what people wrote.

        Args:
            places: what the command names, the registries among them.
            plain_http: whether these are spoken plain http with.
        Raises:
            RequestError: the base names no digest, or the ledger is neither in a bucket nor in a directory.
        """
        image = None
        if base:
            from airfreight.stores.oci.base import parse_base

            image = parse_base(base)
        named = {place.registry for place in (*places, image) if isinstance(place, OciImage | OciRoot)}
        return cls(image, _ledger_root(ledger) if ledger else None, frozenset(named if plain_http else ()))

    def repository(self, image: OciImage) -> Repository:
        """Return a repository of a registry. Nothing is asked of it yet.

        Raises:
            RequestError: the environment's settings for it are wrong.
        """
        from airfreight.stores.oci.registry import Repository

        return Repository(image, self.settings())

    def settings(self) -> RegistrySettings:
        """Return how registries are reached, from the environment and the command.

        Raises:
            RequestError: the environment's settings for it are wrong.
        """
        return RegistrySettings.from_environment(self.plain_http)


NO_REGISTRIES = Registries()


def open_source(
    origin: Origin,
    patterns: Patterns,
    patience: Patience,
    progress: Progress,
    registries: Registries = NO_REGISTRIES,
) -> HubSource | FolderSource:
    """Return the source at an address. Nothing is asked of it yet.

    Raises:
        RequestError: the environment's settings for it are wrong.
    """
    if isinstance(origin, HubModel):
        from airfreight.stores.hub import HubSource

        return HubSource(origin, HubSettings.from_environment(), patterns=patterns)
    from airfreight.reading import FolderSource

    return FolderSource(open_folder(origin, registries), patience, progress, patterns)


def open_folder(place: Place, registries: Registries = NO_REGISTRIES) -> Folder:
    """Return the files at an address. Nothing is asked of them yet.

    Raises:
        RequestError: the environment's settings for it are wrong.
    """
    if isinstance(place, S3Root):
        from airfreight.stores.s3_source import S3Folder

        return S3Folder(place, S3Settings.from_environment())
    if isinstance(place, OciImage):
        from airfreight.stores.oci.folder import OciFolder

        return OciFolder(place, registries.settings())
    from airfreight.stores.directory_source import DirectoryFolder

    return DirectoryFolder(place)


def open_store(
    root: Root, manifest: Manifest, origin: Origin, tenure: Tenure, registries: Registries = NO_REGISTRIES
) -> S3Store | DirectoryStore | OciStore:
    """Return the place of one version below a store's root.

    Raises:
        RequestError: the environment's settings for it are wrong, or it lies inside of what is to be copied.
    """
    if isinstance(root, OciRoot | OciImage):
        return _open_image(image_place(root, manifest), manifest, tenure, registries)
    place = root.below(manifest)
    if place != origin and str(place).startswith(str(origin)):
        raise RequestError(
            f"The copy would go to {place}, inside of its source {origin}, which it would change: give another "
            "destination."
        )
    if isinstance(root, S3Root):
        from airfreight.stores.s3 import S3Store

        return S3Store(root.below(manifest), S3Settings.from_environment(), root=root, tenure=tenure)
    from airfreight.stores.directory import DirectoryStore

    return DirectoryStore(root, root.below(manifest), tenure)


def image_place(root: OciRoot | OciImage, manifest: Manifest) -> OciImage:
    """Return the repository and the tag of one version: below a root by the model's name, else as it was given.

    Raises:
        RequestError: the model's name cannot be a repository's.
    """
    if isinstance(root, OciRoot):
        return root.below(manifest)
    return root if root.tag else root.at(manifest.version)


def open_ledger(root: S3Root | DirectoryRoot) -> Ledger:
    """Return where checkpoints and notes of images lie. Nothing is asked of it yet.

    Raises:
        RequestError: the environment's settings for it are wrong.
    """
    from airfreight.stores.oci.records import Ledger

    if isinstance(root, DirectoryRoot):
        from airfreight.stores.directory_leases import DirectoryShelf

        return Ledger(lambda folder: DirectoryShelf(root, folder))
    from airfreight.stores.s3 import connect
    from airfreight.stores.s3_errors import Place as Bucket
    from airfreight.stores.s3_shelf import S3Shelf

    settings = S3Settings.from_environment()
    bucket = Bucket(root, settings)
    with bucket.translated():
        client = connect(settings)
    return Ledger(lambda folder: S3Shelf(client, bucket, root.prefix + folder))


def limits_of(root: Root, manifest: Manifest) -> Limits:
    """Return what a place can hold, and on a volume, what it has room for now.

    Raises:
        RequestError: there is no such directory.
    """
    from airfreight.prechecks import Limits

    if isinstance(root, S3Root):
        return Limits.of_s3(root.below(manifest).prefix)
    if not isinstance(root, DirectoryRoot):
        return Limits.of_registry(root.registry)
    from airfreight.stores.files import translated

    with translated(str(root)):
        volume = os.statvfs(root.path)
    return Limits.of_directory(root.below(manifest).path, volume.f_bavail * volume.f_frsize)


def _open_image(place: OciImage, manifest: Manifest, tenure: Tenure, registries: Registries) -> OciStore:
    from airfreight.stores.oci.base import BaseSource
    from airfreight.stores.oci.store import OciStore

    base = BaseSource(registries.base, registries.repository(registries.base)) if registries.base else None
    ledger = open_ledger(registries.ledger) if registries.ledger is not None else None
    return OciStore(place, manifest, registries.repository(place), base=base, ledger=ledger, tenure=tenure)


def _ledger_root(text: str) -> S3Root | DirectoryRoot:
    root = parse_any_destination(text)
    if isinstance(root, S3Root | DirectoryRoot):
        return root
    raise RequestError(
        f"The ledger {text!r} is a registry, which cannot keep checkpoints: give the root of a store in a bucket or "
        "a directory, as s3://llm-models/."
    )
