"""`airfreight resolve`, `copy`, `seal` and `verify`: what would be carried, carrying it, alone or in slices, and
reading it again.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Annotated

import typer

from airfreight.commands.common import ResultOption, write_result
from airfreight.commands.images import (
    BaseOption,
    LedgerOption,
    PlainHttpOption,
    announce,
    image_facts,
    read_registries,
)
from airfreight.commands.jobs import begun, facts_of, mirrored, of_mirror, plan_of, resolved, tenure
from airfreight.commands.mirroring import check_foreign, copy_foreign, open_mirror, resolve_foreign
from airfreight.slices import parse_slice
from airfreight.source import HubModel, parse_any_destination, parse_any_source, parse_artifact

ENVIRONMENT = (
    "Environment: HF_TOKEN, HF_ENDPOINT; AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL, "
    "AWS_DEFAULT_REGION; DOCKER_CONFIG (logins); AIRFREIGHT_LEDGER (--ledger), AIRFREIGHT_PLAIN_HTTP, "
    "AIRFREIGHT_LICENCE_DENY, AIRFREIGHT_XET_ABOVE (bytes); AIRFREIGHT_DEBUG=1 adds a traceback."
)
DEADLINE = 24 * 3600.0  # seconds for the whole; Airflow's own task time-out is usually shorter

SourceArgument = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="hf://owner/name@revision or owner/name, s3://bucket/prefix/, file:///directory/, "
        "oci://registry/repository@sha256:….",
    ),
]
DestinationArgument = Annotated[
    str,
    typer.Argument(
        metavar="DESTINATION",
        help="Root of a store: s3://bucket/root/, file:///directory/, oci://registry/path/; or one repository: "
        "oci://registry/repository:tag.",
        show_default=False,
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
        list[str] | None,
        typer.Option(
            metavar="ROOT",
            help="Root of a store: also say where a copy goes, and whether it is there; may be given again.",
        ),
    ] = None,
    allow: AllowOption = None,
    ignore: IgnoreOption = None,
    allow_unsafe: UnsafeOption = None,
    base: BaseOption = None,
    ledger: LedgerOption = None,
    plain_http: PlainHttpOption = False,
    deadline: DeadlineOption = DEADLINE,
    result: ResultOption = None,
) -> None:
    """Say which commit a source names, what it holds, whether it may be published, and what a copy would do.

    Moves no weights.

    Example: airfreight resolve hf://acme/pong@main --store s3://llm-models/
    """
    origin = parse_any_source(source)
    roots = [parse_any_destination(text) for text in store or ()]
    registries = read_registries([origin, *roots], base, ledger, plain_http)
    errand = begun(origin, allow, ignore, allow_unsafe, deadline, registries)
    mirrors = [open_mirror(errand, root) for root in roots]
    if (foreign := resolve_foreign(errand, mirrors)) is not None:
        write_result(result, foreign)
        return
    told = [mirror.manifest for mirror in mirrors if mirror is not None]
    job = resolved(errand, told[0] if told and len(told) == len(roots) else None)
    pairs = zip(roots, mirrors, strict=True)
    plans = [plan_of(job, root, mirror) for root, mirror in pairs] or [plan_of(job, None)]
    for plan, _ in plans:
        typer.echo(plan.table())
    for plan, _ in plans:
        plan.check()
    artifacts = [plan.artifact for plan, _ in plans if plan.artifact is not None]
    value = {
        **facts_of(job),
        **plans[0][0].result(),
        "revision": origin.revision if isinstance(origin, HubModel) else None,
        "repo_id": job.manifest.repo_id,
        # What a copy is to read: where a branch or a tag pointed now. `source` is where an image's model came from.
        "origin": job.manifest.source if isinstance(origin, HubModel) else str(errand.origin),
        "artifact": artifacts[0] if artifacts else None,
        "artifacts": artifacts,
        "published": all(sealed and plan.reused_files == plan.files for plan, sealed in plans),
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
    base: BaseOption = None,
    ledger: LedgerOption = None,
    plain_http: PlainHttpOption = False,
    deadline: DeadlineOption = DEADLINE,
    result: ResultOption = None,
) -> None:
    """Copy a model into a store, verified, to {root}{owner}/{name}/{version}/; what is there is not sent again.

    In a registry it becomes an image, {root}{owner}/{name}:{version}. An image is copied unchanged to another registry,
    its digest too, unless patterns or --base ask for a new one.

    Example: airfreight copy hf://acme/pong@main s3://llm-models/
    """
    origin = parse_any_source(source)
    root = parse_any_destination(destination)
    share = parse_slice(slice_) if slice_ is not None else None

    from airfreight import transfer
    from airfreight.places import limits_of, open_store
    from airfreight.prechecks import check_publishable

    registries = read_registries([origin, root], base, ledger, plain_http)
    errand = begun(origin, allow, ignore, allow_unsafe, deadline, registries)
    mirror = open_mirror(errand, root)
    if mirror is not None and mirror.manifest is None:
        write_result(result, copy_foreign(errand, mirror, share, dry_run))
        return
    job = resolved(errand, mirror.manifest if mirror is not None else None)
    if dry_run:
        plan, _ = plan_of(job, root, mirror)
        typer.echo(plan.table())
        write_result(result, {**facts_of(job), **plan.result(), "artifact": plan.artifact})
        plan.check()
        return
    manifest = job.manifest
    # Room on a volume is looked at by the store, which knows what of this model is there already.
    limits = replace(limits_of(root, manifest), free_bytes=None)
    typer.echo(f"{manifest.source}: {len(manifest.files)} files, {manifest.size / 1024**2:.1f} MiB")
    if mirror is not None:
        check_publishable(manifest, errand.rules, job.facts, of_mirror(limits))
        write_result(result, {**facts_of(job), **mirrored(errand, mirror, share)})
        return
    announce(root, manifest, registries, in_slices=share is not None)
    store = open_store(root, manifest, errand.origin, tenure(), registries)
    copied = transfer.copy(
        job.model,
        store,
        errand.progress,
        errand.patience,
        share=share.of_bundles(store.bundles(manifest.files)) if share is not None else None,
        check=lambda manifest: check_publishable(manifest, errand.rules, job.facts, limits),
    )
    value = {
        **facts_of(job),
        "artifact": copied.artifact,
        "moved_bytes": copied.moved_bytes,
        "reused_files": copied.reused_files,
        "resumed_bytes": copied.resumed_bytes,
        "seconds": round(copied.seconds, 3),
        "slice": str(share) if share is not None else None,
        "sealed": share is None,
        **image_facts(root, store),
    }
    write_result(result, value)


def seal(
    source: SourceArgument,
    destination: DestinationArgument,
    allow: AllowOption = None,
    ignore: IgnoreOption = None,
    allow_unsafe: UnsafeOption = None,
    base: BaseOption = None,
    ledger: LedgerOption = None,
    plain_http: PlainHttpOption = False,
    deadline: DeadlineOption = DEADLINE,
    result: ResultOption = None,
) -> None:
    """End a copy in slices: check that every file is there with its digest recorded, then write airfreight.json.

    Give source, patterns, reason and base as to `airfreight copy`. Moves no weights.

    Example: airfreight seal hf://acme/pong@main s3://llm-models/
    """
    origin = parse_any_source(source)
    root = parse_any_destination(destination)

    from airfreight import transfer
    from airfreight.places import open_store
    from airfreight.prechecks import check_publishable

    registries = read_registries([origin, root], base, ledger, plain_http)
    errand = begun(origin, allow, ignore, allow_unsafe, deadline, registries)
    job = resolved(errand)
    check_publishable(job.manifest, errand.rules, job.facts)
    announce(root, job.manifest, registries, in_slices=True)
    store = open_store(root, job.manifest, errand.origin, tenure(), registries)
    artifact = transfer.seal(job.manifest, store, errand.patience)
    write_result(result, {**facts_of(job), "artifact": artifact, "sealed": True, **image_facts(root, store)})


def verify(
    location: Annotated[
        str,
        typer.Argument(
            metavar="LOCATION",
            help="One delivered version: s3://bucket/root/owner/name/version/, file:///…/ or "
            "oci://registry/repository@sha256:….",
        ),
    ],
    plain_http: PlainHttpOption = False,
    deadline: DeadlineOption = DEADLINE,
    result: ResultOption = None,
) -> None:
    """Read every byte of an artifact again and name each wrong, missing and extra file; exit 3 if there is one.

    An image that Airfreight did not make lists no files: its blobs are compared with their digests.

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
    registries = read_registries([place], None, None, plain_http)
    found = check_foreign(place, registries, patience, progress) or verify_folder(
        open_folder(place, registries), patience, progress
    )
    for finding in found.findings:
        typer.echo(str(finding))
    value = {**found.result(), "good": not found.findings, "seconds": round(time.monotonic() - started, 3)}
    if result is not None or not found.findings:
        write_result(result, value)
    found.check()


def register(app: typer.Typer) -> None:
    """Add `resolve`, `copy`, `seal` and `verify`."""
    app.command()(resolve)
    app.command(epilog=ENVIRONMENT)(copy)
    app.command()(seal)
    app.command()(verify)
