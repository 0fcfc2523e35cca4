"""From an address to what stands behind it: the one place where sources and stores are chosen by their scheme.

Settings are read from the environment here, as late as they are needed: a copy between directories asks for neither a
hub nor a bucket. Imports are late for the same reason, and because `airfreight --help` shall be fast.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from airfreight.environment import HubSettings, S3Settings
from airfreight.errors import RequestError
from airfreight.source import HubModel, Origin, Root, S3Root

if TYPE_CHECKING:
    from airfreight.checkpoint import Tenure
    from airfreight.manifest import Manifest
    from airfreight.patterns import Patterns
    from airfreight.prechecks import Limits
    from airfreight.progress import Progress
    from airfreight.reading import Folder, FolderSource
    from airfreight.retry import Patience
    from airfreight.stores.directory import DirectoryStore
    from airfreight.stores.hub import HubSource
    from airfreight.stores.s3 import S3Store


def open_source(origin: Origin, patterns: Patterns, patience: Patience, progress: Progress) -> HubSource | FolderSource:
    """Return the source at an address. Nothing is asked of it yet.

    Raises:
        RequestError: the environment's settings for it are wrong.
    """
    if isinstance(origin, HubModel):
        from airfreight.stores.hub import HubSource

        return HubSource(origin, HubSettings.from_environment(), patterns=patterns)
    from airfreight.reading import FolderSource

    return FolderSource(open_folder(origin), patience, progress, patterns)


def open_folder(place: Root) -> Folder:
    """Return the files at an address. Nothing is asked of them yet.

    Raises:
        RequestError: the environment's settings for it are wrong.
    """
    if isinstance(place, S3Root):
        from airfreight.stores.s3_source import S3Folder

        return S3Folder(place, S3Settings.from_environment())
    from airfreight.stores.directory_source import DirectoryFolder

    return DirectoryFolder(place)


def open_store(root: Root, manifest: Manifest, origin: Origin, tenure: Tenure) -> S3Store | DirectoryStore:
    """Return the place of one version below a store's root.

    Raises:
        RequestError: the environment's settings for it are wrong, or it lies inside of what is to be copied.
    """
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


def limits_of(root: Root, manifest: Manifest) -> Limits:
    """Return what a place can hold, and on a volume, what it has room for now.

    Raises:
        RequestError: there is no such directory.
    """
    from airfreight.prechecks import Limits

    if isinstance(root, S3Root):
        return Limits.of_s3(root.below(manifest).prefix)
    from airfreight.stores.files import translated

    with translated(str(root)):
        volume = os.statvfs(root.path)
    return Limits.of_directory(root.below(manifest).path, volume.f_bavail * volume.f_frsize)
