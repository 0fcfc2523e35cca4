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

from airfreight.commands.images import Mirror, open_mirror, pinned
from airfreight.environment import licence_deny
from airfreight.errors import RequestError
from airfreight.slices import Slice
from airfreight.source import DirectoryRoot, Origin, Root

if TYPE_CHECKING:
    from airfreight.leases import Tenure
    from airfreight.manifest import Manifest
    from airfreight.places import Registries
    from airfreight.plan import Plan
    from airfreight.prechecks import Facts, Limits, Rules
    from airfreight.progress import Progress
    from airfreight.reading import FolderSource
    from airfreight.retry import Patience
    from airfreight.stores.hub import HubSource


@dataclass(frozen=True)
class Job:
    """What every command knows once the source told its manifest; `narrow`: whether patterns were given."""

    origin: Origin
    narrow: bool
    model: HubSource | FolderSource
    manifest: Manifest
    facts: Facts
    rules: Rules
    patience: Patience
    progress: Progress


def resolved(
    origin: Origin,
    allow: list[str] | None,
    ignore: list[str] | None,
    allow_unsafe: str | None,
    deadline: float,
    registries: Registries,
) -> Job:
    """Ask a source for its manifest and its facts.

    Raises:
        RequestError: the words are wrong, or there is no such model.
        TemporaryError: the source cannot be asked now.
    """
    from airfreight.patterns import Patterns
    from airfreight.places import open_source
    from airfreight.prechecks import Rules
    from airfreight.progress import Progress
    from airfreight.retry import Patience

    patterns = Patterns.of(allow or (), ignore or ())
    rules = Rules.of(licence_deny(), allow_unsafe)
    progress = Progress()
    patience = Patience(deadline=time.monotonic() + deadline, on_retry=progress.retried)
    reading = Progress(write=lambda text: typer.echo(f"reading {origin} for its identity: {text}"))
    origin = pinned(origin, registries, patience)
    model = open_source(origin, patterns, patience, reading, registries)
    narrow = patterns != Patterns()
    manifest, facts = patience.call(model.manifest), patience.call(model.facts)
    return Job(origin, narrow, model, manifest, facts, rules, patience, progress)


def plan_of(job: Job, root: Root | None, registries: Registries) -> tuple[Plan, bool]:
    """Return what a copy below `root` would do, and whether the place is sealed; without a root, of the source alone.

    Raises:
        RequestError: the place holds another manifest, or cannot be read.
        TemporaryError: it cannot be read now.
    """
    from airfreight.places import limits_of, open_store
    from airfreight.plan import make_plan
    from airfreight.transfer import refuse_other

    manifest, patience = job.manifest, job.patience
    if root is None:
        return make_plan(manifest, rules=job.rules, facts=job.facts), False
    mirror = open_mirror(job.origin, root, manifest, registries, job.narrow)
    if mirror is not None:
        there = mirror.is_there(patience)
        plan = make_plan(
            manifest,
            artifact=mirror.artifact,
            held=[file.path for file in manifest.files] if there else [],
            rules=job.rules,
            facts=job.facts,
            limits=of_mirror(limits_of(root, manifest)),
        )
        return plan, there
    store = open_store(root, manifest, job.origin, tenure(), registries)
    sealed = patience.call(store.sealed)
    refuse_other(store.artifact, sealed, manifest)
    held = patience.call(lambda: store.held(manifest.files))
    missing = [file for file in manifest.files if file.path not in held]
    plan = make_plan(
        manifest,
        artifact=store.artifact,
        held=held,
        copied=patience.call(lambda: store.elsewhere(missing)) if missing else (),
        rules=job.rules,
        facts=job.facts,
        limits=limits_of(root, manifest),
        on_disk=isinstance(root, DirectoryRoot),
    )
    return plan, sealed is not None


def of_mirror(limits: Limits) -> Limits:
    """Leave out what holds for layers that we plan: a mirrored image has its own, and the mirror looks at those."""
    return replace(limits, layer_bytes=None)


def mirrored(job: Job, mirror: Mirror, share: Slice | None) -> dict[str, object]:
    """Carry an image over as it is, and return what the result says.

    Raises:
        RequestError: only a share is asked for, or the tag stands for another image.
    """
    if share is not None:
        raise RequestError("An image is mirrored as it is, and whole: leave --slice out.")
    started = time.monotonic()
    mirror.is_there(job.patience)
    typer.echo("the image is copied unchanged; signatures and attestations beside it stay where they are")
    done = mirror.run(job.patience, job.progress)
    return {
        **facts_of(job),
        "artifact": str(done.image),
        "moved_bytes": done.moved_bytes,
        "reused_files": 0 if done.moved_bytes or done.mounted_blobs else len(job.manifest.files),
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
        "allow_unsafe": job.rules.allow_unsafe if unsafe else None,
    }
