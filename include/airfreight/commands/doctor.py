"""`airfreight doctor`: does this cluster have what a delivery needs?"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from airfreight.commands.common import ResultOption, write_result
from airfreight.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Callable


def doctor(
    namespace: Annotated[str, typer.Option(help="Namespace of the worker pods.")] = "airfreight",
    target_namespace: Annotated[str, typer.Option(help="Namespace of the models.")] = "models",
    context: Annotated[
        str | None, typer.Option(help="Context of the kubeconfig.", show_default="the current one")
    ] = None,
    store: Annotated[
        str, typer.Option(help="Store root; looked at when AWS_* variables say how.")
    ] = "s3://llm-models/",
    registry: Annotated[
        str, typer.Option(help="oci:// root of the models' images; looked at from here.", show_default="none")
    ] = "",
    modelcar_base: Annotated[str, typer.Option(help="Base of the images, REF@sha256:....", show_default="none")] = "",
    pull_secret: Annotated[
        str, typer.Option(help="Secret with which nodes must pull.", show_default="none is needed")
    ] = "",
    ca_bundle_configmap: Annotated[
        str, typer.Option(help="ConfigMap of the worker pods' private CA.", show_default="none")
    ] = "",
    plain_http: Annotated[bool, typer.Option("--plain-http", help="Speak plain http with the registry.")] = False,
    result: ResultOption = None,
) -> None:
    """Check a cluster and say of each missing thing how to get it. Reads only; exit 2 when something is missing.

    Example: airfreight doctor --target-namespace models --registry oci://registry.example/models/
    """
    from airfreight.cluster import Cluster
    from airfreight.doctor import Place, State, examine
    from airfreight.retry import Patience

    # A person waits: one more try, not a minute of them.
    cluster = Cluster.connect(context=context, patience=Patience(attempts=2, base=1.0))
    place = Place(namespace, target_namespace)
    checks = examine(cluster, place, _store_check(store))
    if ca_bundle_configmap:
        from airfreight.doctor_images import check_ca_bundle

        checks.append(check_ca_bundle(cluster, place, ca_bundle_configmap))
    if registry:
        from airfreight.doctor_images import examine_images
        from airfreight.environment import RegistrySettings

        host = registry.removeprefix("oci://").partition("/")[0]
        settings = RegistrySettings.from_environment([host] if plain_http else [])
        checks += examine_images(cluster, place, registry, settings, modelcar_base, pull_secret)
    for check in checks:
        typer.echo(check.line())
    missing = [check.title for check in checks if check.state is State.MISSING]
    if result is not None:
        write_result(
            result,
            {
                "ok": not missing,
                "missing": missing,
                "checks": [
                    {"title": check.title, "state": str(check.state), "detail": check.detail, "remedy": check.remedy}
                    for check in checks
                ],
            },
        )
    if missing:
        raise RequestError(
            f"{len(missing)} of {len(checks)} checks failed ({', '.join(missing)}); see their remedies above."
        )


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(doctor)


def _store_check(store: str) -> Callable[[], str] | None:
    """Return a look at the bucket, or None where the environment does not say where the store is and who we are."""
    if not (os.environ.get("AWS_ENDPOINT_URL") or os.environ.get("AWS_ACCESS_KEY_ID")):
        return None

    def look() -> str:
        from airfreight.environment import S3Settings
        from airfreight.source import parse_destination
        from airfreight.stores.s3 import connect
        from airfreight.stores.s3_errors import Place

        root, settings = parse_destination(store), S3Settings.from_environment()
        with Place(root, settings).translated():
            connect(settings).list_objects_v2(Bucket=root.bucket, MaxKeys=1)
        return f"{root} at {settings.where} answers"

    return look
