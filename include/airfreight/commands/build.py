"""`airfreight build`: a model's image made by buildah, for sites that want buildah and a policy for its base."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from airfreight.commands.common import ResultOption, write_result
from airfreight.commands.images import BaseOption, PlainHttpOption
from airfreight.errors import RequestError
from airfreight.stores.oci.reference import OciImage, OciRoot

DEADLINE = 24 * 3600.0  # seconds for the whole; Airflow's own task time-out is usually shorter


def build(
    source: Annotated[
        str,
        typer.Argument(metavar="SOURCE", help="The model: file:///directory/owner/name/version/, as on a volume."),
    ],
    destination: Annotated[
        str,
        typer.Argument(
            metavar="DESTINATION", help="oci://registry/path/ or oci://registry/repository:tag.", show_default=False
        ),
    ],
    base: BaseOption = None,
    policy: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Which bases may be used, as in containers-policy.json(5); else the system's policy."
        ),
    ] = None,
    plain_http: PlainHttpOption = False,
    allow_unsafe: Annotated[
        str | None,
        typer.Option(
            "--allow-unsafe", metavar="REASON", help="Take pickles and code too; the reason is recorded in the result."
        ),
    ] = None,
    deadline: Annotated[
        float, typer.Option("--deadline", metavar="SECONDS", min=1, help="Time for the whole; finished layers stay.")
    ] = DEADLINE,
    result: ResultOption = None,
) -> None:
    """Build a model's image with buildah and publish it: the same content and identity as `airfreight copy` makes.

    Needs root in its container and room in TMPDIR for three times the largest file; `airfreight copy` needs neither.

    Example: airfreight build file:///models/acme/pong/41ab6c1b1c1f/ oci://registry.example/models/ --base
    registry.example/busybox@sha256:<digest>
    """
    from airfreight.buildah import Buildah, check_usable, speaking_plain
    from airfreight.commands.images import pinned
    from airfreight.environment import licence_deny
    from airfreight.modelcar import ModelcarBuild
    from airfreight.patterns import Patterns
    from airfreight.places import Registries, image_place, limits_of, open_source
    from airfreight.prechecks import Rules, check_publishable, unsafe_files
    from airfreight.progress import Progress
    from airfreight.retry import Patience
    from airfreight.source import parse_any_destination, parse_any_source
    from airfreight.stores.oci.base import BaseSource

    started = time.monotonic()
    check_usable()
    origin, root = parse_any_source(source), parse_any_destination(destination)
    if not isinstance(root, OciRoot | OciImage):
        raise RequestError(
            f"The destination {destination!r} is no registry, and buildah builds images: give oci://registry/path/."
        )
    registries = Registries.of((origin, root), base, None, plain_http)
    progress = Progress()
    patience = Patience(deadline=started + deadline, on_retry=progress.retried)
    origin = pinned(origin, registries, patience)
    reading = Progress(write=lambda text: typer.echo(f"reading {origin} for its identity: {text}"))
    model = open_source(origin, Patterns(), patience, reading, registries)
    manifest = patience.call(model.manifest)
    rules = Rules.of(licence_deny(), allow_unsafe)
    check_publishable(manifest, rules, patience.call(model.facts), limits_of(root, manifest))
    place = image_place(root, manifest)
    if isinstance(root, OciRoot) and root.path + manifest.repo_id != place.repository:
        typer.echo(f"{manifest.repo_id} goes to the repository {place.repository}: registries take small letters only")

    def tick() -> None:
        patience.check()
        progress.tick()

    ground, settings = registries.base, registries.settings()
    with Buildah.working(settings.login_file, speaking_plain(settings, ground), tick) as buildah:
        below = BaseSource(ground, registries.repository(ground)) if ground is not None else None
        target, tag = registries.repository(place), place.tag or manifest.version
        built = ModelcarBuild(model, target, tag, below, buildah, progress, patience, typer.echo).run(policy)
    unsafe = list(unsafe_files(manifest))
    value = {
        "artifact": built.artifact,
        "tag": built.tag,
        "image_digest": built.artifact.rpartition("@")[2],
        "builder": "buildah",
        "source": manifest.source,
        "commit": manifest.commit,
        "version": manifest.version,
        "manifest_sha256": manifest.sha256,
        "files": len(manifest.files),
        "size_bytes": manifest.size,
        "moved_bytes": built.moved_bytes,
        "reused_files": built.reused_files,
        "resumed_bytes": 0,
        "sent_bytes": built.sent_bytes,
        "unsafe_files": unsafe,
        "allow_unsafe": rules.allow_unsafe if unsafe else None,
        "seconds": round(time.monotonic() - started, 3),
        "slice": None,
        "sealed": True,
    }
    write_result(result, value)


def register(app: typer.Typer) -> None:
    """Add `build`."""
    app.command()(build)
