"""`airfreight resolve` and `airfreight copy`: what would be carried, and carrying it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from airfreight.commands.common import ResultOption, write_result
from airfreight.environment import HubSettings, S3Settings
from airfreight.source import parse_destination, parse_source

if TYPE_CHECKING:
    from airfreight.manifest import Manifest

DEADLINE = 24 * 3600.0  # seconds for a whole copy; Airflow's own task time-out is usually shorter

SourceArgument = Annotated[str, typer.Argument(metavar="SOURCE", help="hf://owner/name@revision, or owner/name.")]


def resolve(
    source: SourceArgument,
    store: Annotated[
        str | None,
        typer.Option(help="Root of a store, s3://bucket/root/: also say where a copy goes, and whether it is there."),
    ] = None,
    result: ResultOption = None,
) -> None:
    """Say which commit a source names, what it holds, and whether it may be published. Moves no weights.

    Example: airfreight resolve hf://acme/pong@main --store s3://llm-models/
    """
    model = parse_source(source)
    root = parse_destination(store) if store is not None else None
    hub_settings = HubSettings.from_environment()
    s3_settings = S3Settings.from_environment()

    from airfreight.prechecks import check_publishable
    from airfreight.retry import Patience
    from airfreight.stores.hub import HubSource
    from airfreight.transfer import published

    patience = Patience()
    manifest = patience.call(HubSource(model, hub_settings).manifest)
    check_publishable(manifest)
    artifact, complete = None, False
    if root is not None:
        from airfreight.stores.s3 import S3Store

        place = S3Store(root.below(manifest), s3_settings)
        artifact, complete = place.artifact, patience.call(lambda: published(place, manifest))
    value = {
        **_facts(manifest),
        "revision": model.revision,
        "repo_id": manifest.repo_id,
        "artifact": artifact,
        "published": complete,
    }
    write_result(result, value)


def copy(
    source: SourceArgument,
    destination: Annotated[
        str, typer.Argument(metavar="DESTINATION", help="Root of a store: s3://bucket/root/.", show_default=False)
    ],
    result: ResultOption = None,
) -> None:
    """Copy a model into a store, verified, to {root}{owner}/{name}/{version}/; what is there is not sent again.

    Example: airfreight copy hf://acme/pong@main s3://llm-models/
    """
    model = parse_source(source)
    root = parse_destination(destination)
    hub_settings = HubSettings.from_environment()
    s3_settings = S3Settings.from_environment()

    from airfreight import transfer
    from airfreight.progress import Progress
    from airfreight.retry import Patience
    from airfreight.stores.hub import HubSource
    from airfreight.stores.s3 import S3Store

    progress = Progress()
    patience = Patience(deadline=time.monotonic() + DEADLINE, on_retry=progress.retried)
    hub = HubSource(model, hub_settings)
    manifest = patience.call(hub.manifest)
    typer.echo(f"{manifest.source}: {len(manifest.files)} files, {manifest.size / 1024**2:.1f} MiB")
    copied = transfer.copy(hub, S3Store(root.below(manifest), s3_settings), progress, patience)
    value = {
        **_facts(manifest),
        "artifact": copied.artifact,
        "moved_bytes": copied.moved_bytes,
        "reused_files": copied.reused_files,
        "seconds": round(copied.seconds, 3),
    }
    write_result(result, value)


def register(app: typer.Typer) -> None:
    """Add `resolve` and `copy`."""
    app.command()(resolve)
    app.command()(copy)


def _facts(manifest: Manifest) -> dict[str, object]:
    """What both commands say of a manifest."""
    return {
        "source": manifest.source,
        "commit": manifest.commit,
        "version": manifest.version,
        "manifest_sha256": manifest.sha256,
        "files": len(manifest.files),
        "size_bytes": manifest.size,
    }
