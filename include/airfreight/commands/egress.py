"""`airfreight egress | resolver`: nothing leaves a model server's pod, and how that is shown."""

from __future__ import annotations

import json
import threading
import urllib.request
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from airfreight.commands.common import ResultOption, write_result
from airfreight.errors import AirfreightError, RequestError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airfreight.cluster import Cluster
    from airfreight.egress import Evidence

NameOption = Annotated[str, typer.Option(help="Name of the InferenceService.")]
NamespaceOption = Annotated[str, typer.Option(help="Namespace of the target.")]
StoreOption = Annotated[str, typer.Option(help="URL of the S3 endpoint as pods see it; empty: AWS.")]
StorePortOption = Annotated[
    int,
    typer.Option(
        metavar="PORT", min=0, max=65535, help="Port of the store's pods, where its Service has another one; 0: none."
    ),
]
NamespaceOfResolverOption = Annotated[
    str, typer.Option(help="Namespace of our resolver; empty: pods ask the cluster's DNS.")
]


def egress(
    name: NameOption,
    namespace: NamespaceOption,
    artifact: Annotated[str, typer.Option(help="What is served: s3://... or oci://...; decides what is allowed.")],
    release: Annotated[str, typer.Option(help="The release whose pods are looked at.")],
    image: Annotated[str, typer.Option(help="An image with python3 for the control's pods; empty: no control.")] = "",
    store_url: StoreOption = "",
    store_port: StorePortOption = 0,
    resolver_namespace: NamespaceOfResolverOption = "",
    resolver: Annotated[str, typer.Option(help="IP address of our resolver's Service; empty: there is none.")] = "",
    lookups_url: Annotated[
        str, typer.Option(help="Where its list of lookups is read; empty: at its address. For `kubectl port-forward`.")
    ] = "",
    required: Annotated[bool, typer.Option("--required", help="Fail when it is not proven.")] = False,
    result: ResultOption = None,
) -> None:
    """Show that nothing leaves a model's pods: their policy, a control that it bites, what they looked up.

    Example: airfreight egress --name pong --namespace models --artifact s3://llm-models/acme/pong/3b1f9d2c4a5e/
    --release 9f2c41ab6c1b --image registry/airfreight@sha256:... --store-url http://minio.minio.svc.cluster.local:9000
    --resolver-namespace airfreight --resolver 10.96.0.53
    """
    from airfreight.cluster import NETWORK_POLICIES, Cluster
    from airfreight.egress import (
        Evidence,
        Site,
        covers,
        egress_gate,
        is_narrow,
        others,
        policy,
        policy_name,
        rules,
        store_host,
    )
    from airfreight.gates import check, gate, gates_table
    from airfreight.rendering import check_name, check_namespace

    check_name(name)
    check_namespace(namespace)
    site = Site(store_url, resolver_namespace, store_port or None, resolver)
    allowed, wanted = rules(artifact, site), policy(name, namespace, artifact, site)
    cluster = Cluster.connect()
    evidence = Evidence(
        covered=covers(cluster.get(NETWORK_POLICIES, namespace, policy_name(name)), wanted),
        narrow=is_narrow(allowed),
    )
    pods = _pods_of(cluster, namespace, name, release)
    try:
        policies = cluster.items(NETWORK_POLICIES, namespace)
        evidence = replace(evidence, others=others(policies, pods, str(wanted["metadata"]["name"])))
    except RequestError as error:
        evidence = replace(evidence, no_others=_clause(error))
    evidence = _controlled(evidence, cluster, namespace, image, allowed, resolver)
    # Last, so that what is listed reaches from the pods' first moment to the end of everything that was asked of them.
    url = lookups_url or (lookups_place(resolver) if resolver else "")
    evidence = _listened(evidence, pods, release, url)
    judged = egress_gate(evidence, store_host(site) if artifact.startswith("s3://") else "")
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


def lookups_place(resolver: str) -> str:
    """Return where our resolver lists what was asked."""
    from airfreight.egress import LOOKUPS_PORT

    host = f"[{resolver}]" if ":" in resolver else resolver
    return f"http://{host}:{LOOKUPS_PORT}"


def _controlled(
    evidence: Evidence, cluster: Cluster, namespace: str, image: str, allowed: list[dict[str, Any]], resolver: str
) -> Evidence:
    """Add what the control saw. One that cannot be run proves nothing, and is no fault of the model's."""
    from airfreight.egress_control import run_control

    if not image or not resolver:
        return evidence
    try:
        control = run_control(cluster, namespace, image, allowed, resolver)
    except RequestError as error:
        return replace(evidence, no_control=_clause(error))
    return replace(evidence, reached_without=control.reached_without, reached_under=control.reached_under)


def _pods_of(cluster: Cluster, namespace: str, name: str, release: str) -> list[dict[str, Any]]:
    from airfreight.cluster import PODS
    from airfreight.observation import SERVICE_LABEL, release_of

    return [pod for pod in cluster.items(PODS, namespace, f"{SERVICE_LABEL}={name}") if release_of(pod) == release]


def _listened(evidence: Evidence, pods: Sequence[Mapping[str, Any]], release: str, url: str) -> Evidence:
    """Add what the pods of a release asked our resolver for, or why nobody can tell."""
    from airfreight.observation import metadata

    if not url or not all((pod.get("spec") or {}).get("dnsPolicy") == "None" for pod in pods):
        return evidence
    if not pods:
        return replace(evidence, no_lookups=f"release {release} has no pod; look at it while one runs")
    found: list[str] = []
    for pod in pods:
        address = (pod.get("status") or {}).get("podIP")
        if not address:  # what has no address has asked for nothing
            continue
        since = datetime.fromisoformat(str(metadata(pod)["creationTimestamp"]))
        try:
            listed = _asked(url, str(address), since.timestamp())
        except RequestError as error:
            return replace(evidence, no_lookups=_clause(error))
        if listed.remembers > since.timestamp():
            gone = (
                f"our resolver remembers nothing from before {datetime.fromtimestamp(listed.remembers, UTC):%H:%M:%S}"
            )
            return replace(
                evidence,
                no_lookups=f"{gone} UTC, and pod {metadata(pod)['name']} is older; delete it and run this again",
            )
        found += listed.names
    return replace(evidence, lookups=tuple(found))


@dataclass(frozen=True)
class _Listed:
    """What our resolver says of one pod: since when it forgot nothing, as Unix time in seconds, and the names."""

    remembers: float
    names: list[str]


def _asked(url: str, client: str, since: float) -> _Listed:
    place = f"{url.rstrip('/')}/lookups?client={client}&since={since:.0f}"
    try:
        if not url.startswith(("http://", "https://")):
            raise ValueError("it is no http URL")
        with urllib.request.urlopen(place, timeout=10) as answer:  # noqa: S310 - checked above
            said: dict[str, Any] = json.load(answer)
        return _Listed(float(said["remembers"]), [str(one["name"]) for one in said["lookups"]])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RequestError(
            f"The list of lookups at {url} cannot be read ({error}); let this pod reach our resolver, and look whether "
            "it runs."
        ) from None


def _clause(error: AirfreightError) -> str:
    """A sentence as a part of another one."""
    return error.message[:1].lower() + error.message[1:].rstrip(".")
