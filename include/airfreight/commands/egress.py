"""`airfreight egress | resolver`: nothing leaves a model server's pod, and how that is shown."""

from __future__ import annotations

import json
import threading
import urllib.request
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from airfreight.commands.common import ResultOption, write_result
from airfreight.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airfreight.cluster import Cluster

NameOption = Annotated[str, typer.Option(help="Name of the InferenceService.")]
NamespaceOption = Annotated[str, typer.Option(help="Namespace of the target.")]
StoreOption = Annotated[str, typer.Option(help="URL of the S3 endpoint as pods see it; empty: AWS.")]
ResolverOption = Annotated[str, typer.Option(help="Namespace of our resolver; empty: pods ask the cluster's DNS.")]


def egress(
    name: NameOption,
    namespace: NamespaceOption,
    artifact: Annotated[str, typer.Option(help="What is served: s3://... or oci://...; decides what is allowed.")],
    release: Annotated[
        str, typer.Option(help="The release whose pods are looked at; empty: only apply the policy.")
    ] = "",
    image: Annotated[str, typer.Option(help="An image with python3 for the control's pods; empty: no control.")] = "",
    store_url: StoreOption = "",
    resolver_namespace: ResolverOption = "",
    lookups_url: Annotated[str, typer.Option(help="Of our resolver's list; empty: nobody looked.")] = "",
    required: Annotated[bool, typer.Option("--required", help="Fail when it is not proven.")] = False,
    result: ResultOption = None,
) -> None:
    """Show that nothing leaves a model's pods: their policy, a control that it bites, what they looked up.

    Example: airfreight egress --name pong --namespace models --artifact s3://llm-models/acme/pong/3b1f9d2c4a5e/
    --store-url http://minio.minio.svc.cluster.local:9000 --release 9f2c41ab6c1b --image registry/airfreight@sha256:...
    """
    from airfreight.cluster import NETWORK_POLICIES, Cluster
    from airfreight.egress import Evidence, Site, covers, egress_gate, is_narrow, policy, policy_name, rules, store_host
    from airfreight.egress_control import run_control
    from airfreight.gates import check, gate, gates_table
    from airfreight.rendering import check_name, check_namespace

    check_name(name)
    check_namespace(namespace)
    site = Site(store_url, resolver_namespace)
    cluster = Cluster.connect()
    allowed = rules(artifact, site)
    found = cluster.get(NETWORK_POLICIES, namespace, policy_name(name))
    control = run_control(cluster, namespace, image, allowed) if image else None
    evidence = Evidence(
        covered=covers(found, policy(name, namespace, artifact, site)),
        narrow=is_narrow(allowed),
        reached_without=control.reached_without if control else None,
        reached_under=control.reached_under if control else None,
        lookups=_lookups(cluster, namespace, name, release, lookups_url),
    )
    host = store_host(site) if artifact.startswith("s3://") else ""
    judged = egress_gate(evidence, [host] if host else [])
    typer.echo(gates_table([judged]))
    if judged.sentence:
        typer.echo(judged.sentence)
    write_result(result, {"gate": judged.result(), "lookups": list(evidence.lookups or ())})
    if required and judged.verdict != "passed":
        judged = gate(judged.name, False, judged.wanted, judged.found, judged.sentence)
    check([judged])


def resolver(
    allow: Annotated[list[str], typer.Option(help="A name that is passed on; may be given more than once.")],
    upstream: Annotated[str, typer.Option(help="IP address of the cluster's DNS.")],
    port: Annotated[int, typer.Option(help="UDP and TCP port to answer on.")] = 5353,
    http_port: Annotated[int, typer.Option(help="Port of the list of lookups.")] = 8053,
) -> None:
    """Be the DNS of model servers: pass the store's name on, refuse all others, write everything down.

    Example: airfreight resolver --allow minio.minio.svc.cluster.local --upstream 10.96.0.10
    """
    from airfreight.resolver import Resolver, forward_to, serve

    serve(Resolver(allow, forward_to(upstream), typer.echo), port, http_port)
    threading.Event().wait()


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (egress, resolver):
        app.command()(command)


def _lookups(cluster: Cluster, namespace: str, name: str, release: str, url: str) -> tuple[str, ...] | None:
    """Return what the pods of a release asked our resolver for; None where they do not ask it, or nobody can tell."""
    from airfreight.cluster import PODS
    from airfreight.observation import SERVICE_LABEL, metadata, release_of

    if not url:
        return None
    found: list[str] = []
    pods = [pod for pod in cluster.items(PODS, namespace, f"{SERVICE_LABEL}={name}") if release_of(pod) == release]
    if not pods or not all((pod.get("spec") or {}).get("dnsPolicy") == "None" for pod in pods):
        return None
    for pod in pods:
        since = datetime.fromisoformat(str(metadata(pod)["creationTimestamp"])).timestamp()
        found += [str(one["name"]) for one in _asked(url, str(pod["status"].get("podIP", "")), since)]
    return tuple(found)


def _asked(url: str, client: str, since: float) -> Sequence[dict[str, Any]]:
    place = f"{url.rstrip('/')}/lookups?client={client}&since={since:.0f}"
    try:
        if not url.startswith(("http://", "https://")):
            raise ValueError("it is no http URL")
        with urllib.request.urlopen(place, timeout=10) as answer:  # noqa: S310 - checked above
            entries: list[dict[str, Any]] = json.load(answer)["lookups"]
    except (OSError, ValueError, KeyError) as error:
        raise RequestError(f"The list of lookups at {url} cannot be read ({error}); correct --lookups-url.") from None
    return entries
