"""What `airfreight resolve`, `copy` and `verify` do where an image stays as it is, whoever made it.

An image of ours holds an airfreight.json: it is planned, judged and verified by its files, and goes to
{root}{owner}/{name}:{version}. Of an image of somebody else, a model or not, nothing is known but its digests. So it is
verified by them, and it goes to {root}{last two parts of its repository}:{12 digits of its digest}, for a tag of theirs
may mean another image tomorrow. Files below its /models that can run code are refused like anybody's, by their names;
layers that cannot be looked into are carried, and the plan says that they were not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import typer

from airfreight.commands.jobs import mirrored
from airfreight.errors import RequestError
from airfreight.manifest import VERSION_DIGITS
from airfreight.prechecks import human_size, unsafe_paths, unsafe_refusal
from airfreight.source import Place, Root
from airfreight.stores.oci.reference import OciImage, OciRoot, repository_of

if TYPE_CHECKING:
    from airfreight.commands.jobs import Errand
    from airfreight.manifest import Manifest
    from airfreight.places import Registries
    from airfreight.progress import Progress
    from airfreight.retry import Patience
    from airfreight.slices import Slice
    from airfreight.stores.oci.contents import Blob, Contents
    from airfreight.stores.oci.image_check import ImageCheck
    from airfreight.stores.oci.mirror import Mirrored
    from airfreight.stores.oci.registry import Repository


@dataclass(frozen=True)
class ImagePlan:
    """What mirroring an image of somebody else would do.

    Attributes:
        origin: by its digest.
        artifact: where it goes.
        contents: what it consists of.
        missing: what the destination has not.
        published: whether nothing is to be done.
        looked: what was seen of its files, for a person.
        unsafe_files: paths below /models that can run code; None: none was seen, and not all could be looked into.
        allow_unsafe: the reason why they are taken; empty: they are not.
        refusal: why it would not be done; empty: it would.
    """

    origin: OciImage
    artifact: str
    contents: Contents
    missing: tuple[Blob, ...]
    published: bool
    looked: str = ""
    unsafe_files: tuple[str, ...] | None = None
    allow_unsafe: str = ""
    refusal: str = ""

    def check(self) -> None:
        """Return if it would be done.

        Raises:
            RequestError: it would not.
        """
        if self.refusal:
            raise RequestError(self.refusal)

    def table(self) -> str:
        """Return the plan for a person; lines without a newline at the end."""
        there = [blob for blob in self.contents.blobs if blob not in self.missing]
        rows = [("all", self.contents.blobs), ("to move", self.missing), ("there", there)]
        return "\n".join(
            [
                f"{self.origin} as version {_version(self.origin)}",
                f"to {self.artifact}",
                f"airfreight did not make this image: {self.looked}",
                *(
                    f"{name:<12}  {len(blobs):>3} blobs {human_size(sum(blob.size for blob in blobs)):>10}"
                    for name, blobs in rows
                ),
                f"{'refused':<12}  {self.refusal or 'nothing'}",
            ]
        )

    def result(self) -> dict[str, object]:
        """Return the fields of a command's result."""
        missing = sum(blob.size for blob in self.missing)
        return {
            **_facts(self.origin),
            "unsafe_files": None if self.unsafe_files is None else list(self.unsafe_files),
            "allow_unsafe": self.allow_unsafe or None,
            "blobs": len(self.contents.blobs),
            "size_bytes": self.contents.size,
            "move_bytes": missing,
            "copied_bytes": 0,
            "reused_bytes": self.contents.size - missing,
            "disk_bytes": 0,
            "refusals": [self.refusal] if self.refusal else [],
            "artifact": self.artifact,
        }


class Mirror:
    """An image on its way from one repository to another, as it is.

    Args:
        origin: by its digest.
        place: repository and tag.
        manifest: what its airfreight.json says; None: it is somebody else's.
        source: of `origin`.
    """

    def __init__(
        self,
        origin: OciImage,
        place: OciImage,
        manifest: Manifest | None,
        source: Repository,
        registries: Registries,
    ) -> None:
        same = origin.registry == place.registry
        self._source, self._target = source, source.beside(place) if same else registries.repository(place)
        self._origin, self._digest, self._place = origin, str(origin.digest), place
        self.manifest = manifest

    @property
    def artifact(self) -> str:
        """`oci://registry/repository@sha256:…` at the destination."""
        return str(self._place.at(self._digest))

    def plan(self, patience: Patience) -> ImagePlan:
        """Return what `run` would do.

        Raises:
            RequestError: the tag stands for another image, or a registry refuses to be asked.
            TemporaryError: a registry cannot be asked now.
        """
        from airfreight.stores.oci.contents import contents
        from airfreight.stores.oci.mirror import check_sizes, lacking, lists_all

        tagged = self._is_tagged(patience)
        found = contents(self._source, self._digest, patience)
        missing = lacking(found, self._target, patience)
        whole = tagged and not missing and lists_all(found, self._target, patience)
        refusal = ""
        try:
            check_sizes(missing, self._source, self._target)
        except RequestError as error:
            refusal = error.message
        return ImagePlan(self._origin, self.artifact, found, tuple(missing), whole, refusal=refusal)

    def run(self, patience: Patience, progress: Progress) -> Mirrored:
        """Carry it over.

        Raises:
            RequestError: the tag stands for another image, or as `mirror`.
            IntegrityError, TemporaryError: as `airfreight.stores.oci.mirror.mirror`.
        """
        from airfreight.stores.oci.mirror import mirror

        self._is_tagged(patience)
        typer.echo("the image is copied unchanged; signatures and attestations beside it stay where they are")
        return mirror(self._source, self._digest, self._target, self._place.tag, patience, progress)

    def _is_tagged(self, patience: Patience) -> bool:
        """Return whether the tag stands for this image already, rather than for nothing.

        Raises:
            RequestError: it stands for another one.
        """
        found = patience.call(lambda: self._target.describe(str(self._place.tag)))
        if found is not None and found.digest != self._digest:
            raise RequestError(
                f"{self._place} is another image ({found.digest[:19]}…, not {self._digest[:19]}…), and a version is "
                "never overwritten: give another tag or repository, or remove it first."
            )
        return found is not None


def open_mirror(errand: Errand, root: Root) -> Mirror | None:
    """Return the mirror that a copy is; None where it is none: patterns and a base make a new image.

    Raises:
        RequestError: there is no such image, or it may not be read.
        IntegrityError: it is damaged.
        TemporaryError: it cannot be read now.
    """
    origin, registries = errand.origin, errand.registries
    if not isinstance(origin, OciImage) or not isinstance(root, OciRoot | OciImage):
        return None
    if errand.narrow or registries.base is not None:
        return None
    from airfreight.places import image_place

    source = registries.repository(origin)
    manifest = _told(origin, source, registries, errand.patience)
    place = _place(root, origin) if manifest is None else image_place(root, manifest)
    return Mirror(origin, place, manifest, source, registries)


def check_foreign(place: Place, registries: Registries, patience: Patience, progress: Progress) -> ImageCheck | None:
    """Read an image of somebody else again; None where the place is none, and lists its files.

    Raises:
        RequestError, IntegrityError, TemporaryError: as `check_image`.
    """
    if not isinstance(place, OciImage):
        return None
    from airfreight.stores.oci.image_check import check_image

    source = registries.repository(place)
    if _told(place, source, registries, patience) is not None:
        return None
    typer.echo("airfreight did not make this image: its blobs are compared with their digests")
    return check_image(source, str(place.reference), patience, progress)


def resolve_foreign(errand: Errand, mirrors: Sequence[Mirror | None]) -> dict[str, object] | None:
    """Say what mirroring an image of somebody else would do, and return what the result says; None where there is a
    manifest, or one is needed.

    Raises:
        RequestError, TemporaryError: as `Mirror.plan`, and where it would not be done, or holds files that run code.
    """
    foreign = [mirror for mirror in mirrors if mirror is not None and mirror.manifest is None]
    if not foreign or len(foreign) < len(mirrors):
        return None
    plans = [_judged(mirror.plan(errand.patience), errand) for mirror in foreign]
    for plan in plans:
        typer.echo(plan.table())
    for plan in plans:
        plan.check()
    return {
        **plans[0].result(),
        "revision": None,
        "repo_id": _name(plans[0].origin),
        "origin": str(plans[0].origin),
        "artifacts": [plan.artifact for plan in plans],
        "published": all(plan.published for plan in plans),
    }


def copy_foreign(errand: Errand, mirror: Mirror, share: Slice | None, dry_run: bool) -> dict[str, object]:
    """Carry an image of somebody else over, or only say what would be done; return what the result says.

    Raises:
        RequestError, IntegrityError, TemporaryError: as `mirrored`.
    """
    plan = _judged(mirror.plan(errand.patience), errand)
    typer.echo(plan.table())
    plan.check()
    return plan.result() if dry_run else {**plan.result(), **mirrored(errand, mirror, share)}


def _judged(plan: ImagePlan, errand: Errand) -> ImagePlan:
    """Add what the image's files are to a plan."""
    from airfreight.stores.oci.folder import OciFolder

    if plan.published:
        return replace(plan, looked="it is there already")
    typer.echo(f"looking for names of files in {len(plan.contents.blobs)} blobs; packed layers are read to their end")
    paths, problem = errand.patience.call(OciFolder(plan.origin, errand.registries.settings()).paths)
    unsafe = unsafe_paths(paths)
    seen = f"of the names of its {len(paths)} files below /models, {len(unsafe)} can run code" if paths else ""
    if problem:
        seen = f"{seen or 'its files are not looked at'} ({problem.partition(': ')[0].rstrip('.')})"
    return replace(
        plan,
        looked=seen or "it holds no model",
        unsafe_files=None if problem and not unsafe else unsafe,
        allow_unsafe=errand.rules.allow_unsafe if unsafe else "",
        refusal=unsafe_refusal(str(plan.origin), unsafe, errand.rules) or plan.refusal,
    )


def _facts(origin: OciImage) -> dict[str, object]:
    """What is known of an image of somebody else, where others have the facts of a model."""
    return {
        "source": str(origin),
        "commit": None,
        "version": _version(origin),
        "manifest_sha256": None,
        "files": None,
        "licences": None,
    }


def _version(origin: OciImage) -> str:
    return str(origin.digest).partition(":")[2][:VERSION_DIGITS]


def _name(origin: OciImage) -> str:
    return "/".join(origin.repository.split("/")[-2:])


def _place(root: OciRoot | OciImage, origin: OciImage) -> OciImage:
    if isinstance(root, OciRoot):
        return OciImage(root.registry, repository_of(root, _name(origin)), tag=_version(origin))
    return root if root.tag else root.at(_version(origin))


def _told(image: OciImage, source: Repository, registries: Registries, patience: Patience) -> Manifest | None:
    from airfreight.stores.oci.folder import OciFolder

    return patience.call(OciFolder(image, registries.settings(), source).told)
