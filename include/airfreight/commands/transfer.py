"""`airfreight resolve`, `copy`, `seal` and `verify`: what would be carried, carrying it, alone or in slices, and
reading it again.

    AIRFREIGHT_OWNER   the name under which leases are held. Set to what is the same for every retry of a task and no
                       other task's (DAG, run, task, map index), a retry goes on at once where the last try was killed;
                       without it, once the lease of the killed one has run out, after about a minute
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

import typer

from airfreight.commands.common import ResultOption, write_result
from airfreight.environment import licence_deny
from airfreight.slices import parse_slice
from airfreight.source import (
    DirectoryRoot,
    HubModel,
    Origin,
    Root,
    parse_any_destination,
    parse_any_source,
    parse_artifact,
)

if TYPE_CHECKING:
    from airfreight.checkpoint import Tenure
    from airfreight.manifest import Manifest
    from airfreight.plan import Plan
    from airfreight.prechecks import Facts, Rules
    from airfreight.progress import Progress
    from airfreight.reading import FolderSource
    from airfreight.retry import Patience
    from airfreight.stores.hub import HubSource

DEADLINE = 24 * 3600.0  # seconds for the whole; Airflow's own task time-out is usually shorter

SourceArgument = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="hf://owner/name@revision or owner/name, s3://bucket/prefix/, file:///directory/.",
    ),
]
DestinationArgument = Annotated[
    str,
    typer.Argument(
        metavar="DESTINATION", help="Root of a store: s3://bucket/root/ or file:///directory/.", show_default=False
    ),
]
AllowOption = Annotated[
    list[str] | None,
    typer.Option("--allow", metavar="PATTERN", help="Take only files like this, as *.json; may be given again."),
]
IgnoreOption = Annotated[
    list[str] | None,
    typer.Option("--ignore", metavar="PATTERN", help="Leave out files like this, as original/*; may be given again."),
]
UnsafeOption = Annotated[
    str | None,
    typer.Option(
        "--allow-unsafe", metavar="REASON", help="Take pickles and code too; the reason is recorded in the result."
    ),
]
DeadlineOption = Annotated[
    float, typer.Option("--deadline", metavar="SECONDS", min=1, help="Time for the whole; what was sent is kept.")
]


def resolve(
    source: SourceArgument,
    store: Annotated[
        str | None,
        typer.Option(help="Root of a store, s3://bucket/root/: also say where a copy goes, and whether it is there."),
    ] = None,
    allow: AllowOption = None,
    ignore: IgnoreOption = None,
    allow_unsafe: UnsafeOption = None,
    deadline: DeadlineOption = DEADLINE,
    result: ResultOption = None,
) -> None:
    """Say which commit a source names, what it holds, whether it may be published, and what a copy would do.

    Moves no weights.

    Example: airfreight resolve hf://acme/pong@main --store s3://llm-models/
    """
    origin = parse_any_source(source)
    root = parse_any_destination(store) if store is not None else None
    job = _resolved(origin, allow, ignore, allow_unsafe, deadline)
    plan, sealed = _plan(job, root)
    typer.echo(plan.table())
    plan.check()
    value = {
        **_facts(job),
        **plan.result(),
        "revision": origin.revision if isinstance(origin, HubModel) else None,
        "repo_id": job.manifest.repo_id,
        "artifact": plan.artifact,
        "published": sealed and plan.reused_files == plan.files,
    }
    write_result(result, value)


def copy(
    source: SourceArgument,
    destination: DestinationArgument,
    slice_: Annotated[
        str | None,
        typer.Option(
            "--slice", metavar="I/N", help="Only share I of N, as 2/8; `airfreight seal` then ends what all copied."
        ),
    ] = None,
    allow: AllowOption = None,
    ignore: IgnoreOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be done for the whole, and what forbids it.")
    ] = False,
    allow_unsafe: UnsafeOption = None,
    deadline: DeadlineOption = DEADLINE,
    result: ResultOption = None,
) -> None:
    """Copy a model into a store, verified, to {root}{owner}/{name}/{version}/; what is there is not sent again.

    Example: airfreight copy hf://acme/pong@main s3://llm-models/
    """
    origin = parse_any_source(source)
    root = parse_any_destination(destination)
    share = parse_slice(slice_) if slice_ is not None else None

    from airfreight import transfer
    from airfreight.places import limits_of, open_store
    from airfreight.prechecks import check_publishable

    job = _resolved(origin, allow, ignore, allow_unsafe, deadline)
    if dry_run:
        plan, _ = _plan(job, root)
        typer.echo(plan.table())
        write_result(result, {**_facts(job), **plan.result(), "artifact": plan.artifact})
        plan.check()
        return
    manifest = job.manifest
    # Room on a volume is looked at by the store, which knows what of this model is there already.
    limits = replace(limits_of(root, manifest), free_bytes=None)
    typer.echo(f"{manifest.source}: {len(manifest.files)} files, {manifest.size / 1024**2:.1f} MiB")
    copied = transfer.copy(
        job.model,
        open_store(root, manifest, origin, _tenure()),
        job.progress,
        job.patience,
        share=share.of(manifest.files) if share is not None else None,
        check=lambda manifest: check_publishable(manifest, job.rules, job.facts, limits),
    )
    value = {
        **_facts(job),
        "artifact": copied.artifact,
        "moved_bytes": copied.moved_bytes,
        "reused_files": copied.reused_files,
        "resumed_bytes": copied.resumed_bytes,
        "seconds": round(copied.seconds, 3),
        "slice": str(share) if share is not None else None,
        "sealed": share is None,
    }
    write_result(result, value)


def seal(
    source: SourceArgument,
    destination: DestinationArgument,
    allow: AllowOption = None,
    ignore: IgnoreOption = None,
    allow_unsafe: UnsafeOption = None,
    deadline: DeadlineOption = DEADLINE,
    result: ResultOption = None,
) -> None:
    """End a copy in slices: check that every file is there with its digest recorded, then write airfreight.json.

    Give source, patterns and reason as to `airfreight copy`. Moves no weights.

    Example: airfreight seal hf://acme/pong@main s3://llm-models/
    """
    origin = parse_any_source(source)
    root = parse_any_destination(destination)

    from airfreight import transfer
    from airfreight.places import open_store
    from airfreight.prechecks import check_publishable

    job = _resolved(origin, allow, ignore, allow_unsafe, deadline)
    check_publishable(job.manifest, job.rules, job.facts)
    artifact = transfer.seal(job.manifest, open_store(root, job.manifest, origin, _tenure()), job.patience)
    write_result(result, {**_facts(job), "artifact": artifact, "sealed": True})


def verify(
    location: Annotated[
        str,
        typer.Argument(
            metavar="LOCATION", help="One delivered version: s3://bucket/root/owner/name/version/ or file:///…/."
        ),
    ],
    deadline: DeadlineOption = DEADLINE,
    result: ResultOption = None,
) -> None:
    """Read every byte of an artifact again and name each wrong, missing and extra file; exit 3 if there is one.

    Example: airfreight verify s3://llm-models/acme/pong/41ab6c1b1c1f/
    """
    place = parse_artifact(location)

    from airfreight.places import open_folder
    from airfreight.progress import Progress
    from airfreight.retry import Patience
    from airfreight.verify import verify as verify_folder

    progress = Progress()
    patience = Patience(deadline=time.monotonic() + deadline, on_retry=progress.retried)
    started = time.monotonic()
    found = verify_folder(open_folder(place), patience, progress)
    for finding in found.findings:
        typer.echo(str(finding))
    value = {
        "artifact": found.artifact,
        "source": found.manifest.source,
        "manifest_sha256": found.manifest.sha256,
        "files": len(found.manifest.files),
        "size_bytes": found.manifest.size,
        "read_bytes": found.read_bytes,
        "wrong": found.paths("wrong"),
        "missing": found.paths("missing"),
        "extra": found.paths("extra"),
        "good": not found.findings,
        "seconds": round(time.monotonic() - started, 3),
    }
    if result is not None or not found.findings:
        write_result(result, value)
    found.check()


def register(app: typer.Typer) -> None:
    """Add `resolve`, `copy`, `seal` and `verify`."""
    app.command()(resolve)
    app.command()(copy)
    app.command()(seal)
    app.command()(verify)


@dataclass(frozen=True)
class _Job:
    """What every command knows once the source told its manifest."""

    origin: Origin
    model: HubSource | FolderSource
    manifest: Manifest
    facts: Facts
    rules: Rules
    patience: Patience
    progress: Progress


def _resolved(
    origin: Origin, allow: list[str] | None, ignore: list[str] | None, allow_unsafe: str | None, deadline: float
) -> _Job:
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
    model = open_source(origin, patterns, patience, reading)
    return _Job(origin, model, patience.call(model.manifest), patience.call(model.facts), rules, patience, progress)


def _plan(job: _Job, root: Root | None) -> tuple[Plan, bool]:
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
    store = open_store(root, manifest, job.origin, _tenure())
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


def _tenure() -> Tenure:
    from airfreight.checkpoint import Tenure

    owner = os.environ.get("AIRFREIGHT_OWNER", "").strip()
    return Tenure(owner=owner) if owner else Tenure()


def _facts(job: _Job) -> dict[str, object]:
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
        "licences": None if job.facts.licences is None else list(job.facts.licences),
        "unsafe_files": unsafe,
        "allow_unsafe": job.rules.allow_unsafe if unsafe else None,
    }
