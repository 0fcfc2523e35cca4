"""What `airfreight resolve`, `copy` and `seal` say and do about images, beside what they do everywhere.

copy hf://… oci://…      builds an image from a model, on --base where one is given
copy oci://… s3://…      takes the model out of an image
copy oci://… oci://…     mirrors (`mirroring`); with --base or patterns, builds
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from airfreight.errors import RequestError
from airfreight.source import Origin, Root
from airfreight.stores.oci.reference import OciImage, OciRoot

if TYPE_CHECKING:
    from airfreight.manifest import Manifest
    from airfreight.places import Registries
    from airfreight.retry import Patience

BaseOption = Annotated[
    str | None,
    typer.Option(
        "--base",
        metavar="IMAGE",
        help="Build images on this one, registry/repository@sha256:…; without it they hold /models alone.",
    ),
]
LedgerOption = Annotated[
    str | None,
    typer.Option(
        "--ledger",
        metavar="ROOT",
        envvar="AIRFREIGHT_LEDGER",
        help="Keep checkpoints and notes of images below this root of a store, s3://bucket/root/ or file:///directory/.",
    ),
]
PlainHttpOption = Annotated[
    bool, typer.Option("--plain-http", help="Speak plain http with the registries that are named here.")
]


def read_registries(
    places: Sequence[Origin | Root], base: str | None, ledger: str | None, plain_http: bool
) -> Registries:
    """Read the options above.

    Raises:
        RequestError: see `Registries.of`; or a base, where no image is made.
    """
    from airfreight.places import Registries

    if base and not any(isinstance(place, OciRoot | OciImage) for place in places[1:]):
        raise RequestError(
            "--base says what an image is built on, and no registry is named to put one in: leave it out, or give "
            "oci://registry/path/."
        )
    return Registries.of(places, base, ledger, plain_http)


def pinned(origin: Origin, registries: Registries, patience: Patience) -> Origin:
    """Return an origin whose tag was looked up: from here on only the digest is used.

    Raises:
        RequestError, TemporaryError: there is no such image, or the registry cannot be asked.
    """
    if not isinstance(origin, OciImage) or origin.tag is None:
        return origin
    repository, tag = registries.repository(origin), origin.tag
    return origin.at(patience.call(lambda: repository.resolve(tag)))


def announce(root: Root, manifest: Manifest, registries: Registries, in_slices: bool) -> None:
    """Say where an image goes, and what a run without a ledger cannot do.

    Raises:
        RequestError: slices without a ledger: nobody would know what the others sent.
    """
    if not isinstance(root, OciRoot | OciImage):
        return
    from airfreight.places import image_place

    place = image_place(root, manifest)
    if isinstance(root, OciRoot) and root.path + manifest.repo_id != place.repository:
        typer.echo(f"{manifest.repo_id} goes to the repository {place.repository}: registries take small letters only")
    if registries.ledger is not None:
        return
    if in_slices:
        raise RequestError(
            "The slices of an image tell each other through a ledger which layers are there: give --ledger "
            "s3://bucket/root/, or set AIRFREIGHT_LEDGER."
        )
    typer.echo("no --ledger: a layer that is interrupted is sent again from its beginning")


def image_facts(root: Root, store: object) -> dict[str, object]:
    """Return what a result says of a copy in a registry beside the rest."""
    if not isinstance(root, OciRoot | OciImage):
        return {}
    from airfreight.stores.oci.store import OciStore

    return store.facts() if isinstance(store, OciStore) else {}
