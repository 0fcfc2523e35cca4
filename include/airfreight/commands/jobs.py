"""What `airfreight resolve`, `copy` and `seal` have in common: from words to a manifest, a plan and a result.

AIRFREIGHT_OWNER   the name under which leases are held. Set to what is the same for every retry of a task and no
                   other task's (DAG, run, task, map index), a retry goes on at once where the last try was killed;
                   without it, once the lease of the killed one has run out, after about a minute
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import typer

from airfreight.commands.images import pinned
from airfreight.environment import licence_deny
from airfreight.errors import RequestError
from airfreight.slices import Slice
from airfreight.source import DirectoryRoot, Origin, Root

if TYPE_CHECKING:
    from airfreight.commands.mirroring import Mirror
    from airfreight.leases import Tenure
    from airfreight.manifest import Manifest
    from airfreight.patterns import Patterns
    from airfreight.places import Registries
    from airfreight.plan import Plan
    from airfreight.prechecks import Facts, Limits, Rules
    from airfreight.progress import Progress
    from airfreight.reading import FolderSource
    from airfreight.retry import Patience
    from airfreight.stores.hub import HubSource


@dataclass(frozen=True)
class Errand:
    """What every command knows before a source tells its manifest; an image is named by its digest."""

    origin: Origin
    patterns: Patterns
    rules: Rules
    patience: Patience
    progress: Progress
    registries: Registries

    @property
    def narrow(self) -> bool:
        """Whether patterns were given."""
        return bool(self.patterns.allow or self.patterns.ignore)


@dataclass(frozen=True)
class Job:
    """What every command knows once the source told its manifest."""

    errand: Errand
    model: HubSource | FolderSource
    manifest: Manifest
    facts: Facts


def begun(
    origin: Origin,
    allow: list[str] | None,
    ignore: list[str] | None,
    allow_unsafe: str | None,
    deadline: float,
    registries: Registries,
) -> Errand:
    """Read the words of a command; of the source, only what a tag of an image stands for is asked.

    Raises:
        RequestError: the words are wrong, or there is no such image.
        TemporaryError: its registry cannot be asked now.
    """
    from airfreight.patterns import Patterns
    from airfreight.prechecks import Rules
    from airfreight.progress import Progress
    from airfreight.retry import Patience

    patterns = Patterns.of(allow or (), ignore or ())
    rules = Rules.of(licence_deny(), allow_unsafe)
    progress = Progress()
    patience = Patience(deadline=time.monotonic() + deadline, on_retry=progress.retried)
    return Errand(pinned(origin, registries, patience), patterns, rules, patience, progress, registries)


def resolved(errand: Errand, told: Manifest | None = None) -> Job:
    """Ask a source for its manifest and its facts.

    Args:
        told: the manifest, where somebody has asked for it already.
    Raises:
        RequestError: there is no such model.
        TemporaryError: the source cannot be asked now.
    """
    from airfreight.places import open_source
    from airfreight.progress import Progress

    origin, patience = errand.origin, errand.patience
    reading = Progress(write=lambda text: typer.echo(f"reading {origin} for its identity: {text}"))
    model = open_source(origin, errand.patterns, patience, reading, errand.registries)
    manifest = told or patience.call(model.manifest)
    return Job(errand, model, manifest, patience.call(model.facts))


def plan_of(job: Job, root: Root | None, mirror: Mirror | None = None) -> tuple[Plan, bool]:
    """Return what a copy below `root` would do, and whether the place is sealed; without a root, of the source alone.

    Args:
        mirror: what the copy is, where it is one.
    Raises:
        RequestError: the place holds another manifest, or cannot be read.
        TemporaryError: it cannot be read now.
    """
    from airfreight.places import limits_of, open_store
    from airfreight.plan import make_plan
    from airfreight.transfer import refuse_other

    errand, manifest = job.errand, job.manifest
    rules, patience = errand.rules, errand.patience
    if root is None:
        return make_plan(manifest, rules=rules, facts=job.facts), False
    if mirror is not None:
        there = mirror.plan(patience).published
        plan = make_plan(
            manifest,
            artifact=mirror.artifact,
            held=[file.path for file in manifest.files] if there else [],
            rules=rules,
            facts=job.facts,
            limits=of_mirror(limits_of(root, manifest)),
        )
        return plan, there
    store = open_store(root, manifest, errand.origin, tenure(), errand.registries)
    sealed = patience.call(store.sealed)
    refuse_other(store.artifact, sealed, manifest)
    held = patience.call(lambda: store.held(manifest.files))
    missing = [file for file in manifest.files if file.path not in held]
    plan = make_plan(
        manifest,
        artifact=store.artifact,
        held=held,
        copied=patience.call(lambda: store.elsewhere(missing)) if missing else (),
        rules=rules,
        facts=job.facts,
        limits=limits_of(root, manifest),
        on_disk=isinstance(root, DirectoryRoot),
    )
    return plan, sealed is not None


def of_mirror(limits: Limits) -> Limits:
    """Leave out what holds for layers that we plan: a mirrored image has its own, and the mirror looks at those."""
    return replace(limits, layer_bytes=None)


def mirrored(errand: Errand, mirror: Mirror, share: Slice | None) -> dict[str, object]:
    """Carry an image over as it is, and return what the result says of that.

    Raises:
        RequestError: only a share is asked for, or the tag stands for another image.
    """
    if share is not None:
        raise RequestError("An image is mirrored as it is, and whole: leave --slice out.")
    started = time.monotonic()
    done = mirror.run(errand.patience, errand.progress)
    files = None if mirror.manifest is None else len(mirror.manifest.files)
    return {
        "artifact": str(done.image),
        "blobs": done.blobs,
        "moved_bytes": done.moved_bytes,
        "reused_files": 0 if done.moved_bytes or done.mounted_blobs else files,
        "resumed_bytes": 0,
        "seconds": round(time.monotonic() - started, 3),
        "slice": None,
        "sealed": True,
        "tag": done.tag,
        "image_digest": done.image.digest,
        "sent_bytes": done.moved_bytes,
    }


def tenure() -> Tenure:
    """Return under which name this process holds leases."""
    from airfreight.leases import Tenure

    owner = os.environ.get("AIRFREIGHT_OWNER", "").strip()
    return Tenure(owner=owner) if owner else Tenure()


def facts_of(job: Job) -> dict[str, object]:
    """What all commands say of a model."""
    from airfreight.prechecks import unsafe_files

    manifest, unsafe = job.manifest, list(unsafe_files(job.manifest))
    return {
        "source": manifest.source,
        "commit": manifest.commit,
        "version": manifest.version,
        "manifest_sha256": manifest.sha256,
        "files": len(manifest.files),
        "size_bytes": manifest.size,
        "largest_bytes": max((file.size for file in manifest.files), default=0),
        "licences": None if job.facts.licences is None else list(job.facts.licences),
        "unsafe_files": unsafe,
        "allow_unsafe": job.errand.rules.allow_unsafe if unsafe else None,
    }
