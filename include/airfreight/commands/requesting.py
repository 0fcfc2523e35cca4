"""What `airfreight deploy`, `smoke`, `render` and `register` have in common: their options, read and checked alike."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from airfreight.errors import RequestError

if TYPE_CHECKING:
    from airfreight.cluster import Cluster
    from airfreight.deployment import Plan, Rehearsal, Request
    from airfreight.disk import Node
    from airfreight.egress import Site
    from airfreight.environment import RegistrySettings
    from airfreight.serving import Serving

NameOption = Annotated[str, typer.Option(help="Name of the InferenceService.")]
NamespaceOption = Annotated[str, typer.Option(help="Namespace of the target.")]
ArtifactOption = Annotated[
    list[str],
    typer.Option(help="s3://bucket/repository/version/ or oci://...@sha256:...; given twice, once of each kind."),
]
SourceOption = Annotated[str, typer.Option(help="Where the artifact came from, at its commit; recorded.")]
ServedNameOption = Annotated[str, typer.Option(help="Name of the model in the OpenAI API.")]
ServingOption = Annotated[str, typer.Option(metavar="JSON", help="The serving block; runtime is required in it.")]
DeliveryOption = Annotated[
    str, typer.Option(metavar="MODE", help="auto, s3, oci (modelcar) or oci+native (image volume).")
]
ManifestOption = Annotated[str | None, typer.Option(help="sha256 of the artifact's manifest, 64 hex digits.")]
SizeOption = Annotated[
    int, typer.Option(min=0, help="Bytes of the model, for the nodes' disk.", show_default="not known")
]
PullSecretOption = Annotated[
    str, typer.Option(help="Secret the nodes must pull with; checked.", show_default="what the service account lists")
]
TakeOverOption = Annotated[bool, typer.Option("--take-over", help="Overwrite what was edited by hand.")]
PlainHttpOption = Annotated[bool, typer.Option("--plain-http", help="Ask the image's registry over plain http.")]


def checked_plan(
    cluster: Cluster, request: Request, plain_http: bool, take_over: bool, site: Site | None = None
) -> tuple[Plan, Rehearsal, list[Node] | None]:
    """Choose the delivery mode by what the cluster says, rehearse it, and check what its pods need; each finding is
    shown, except for those of the rehearsal.

    Args:
        take_over: what was edited by hand may be overwritten.
        site: what its pods may reach; None: they come under no policy of ours.
    Returns:
        The plan, what the cluster would make of it, and the nodes that can serve it; None where they may not be read,
        or no pod starts.
    Raises:
        RequestError: something is missing, the cluster refuses it, or no mode is left.
        TemporaryError: cluster or registry do not answer.
    """
    from airfreight.deployment import ask, check, check_room, make_plan, rehearse

    facts, size_bytes = ask(cluster, request, registries(request, plain_http), typer.echo)
    plan = make_plan(request, facts, site)
    typer.echo(f"Delivery {plan.choice.mode}: {plan.choice.reason}.")
    check(cluster, plan)
    rehearsal = rehearse(cluster, plan, take_over=take_over)
    if not rehearsal.starts_a_pod:
        typer.echo("Node disk: not checked, because this changes nothing and so starts no pod.")
        return plan, rehearsal, None
    return plan, rehearsal, check_room(cluster, plan, size_bytes, typer.echo, rehearsal.pod)


def read_request(
    name: str,
    namespace: str,
    artifact: list[str],
    source: str,
    served_name: str,
    serving: str,
    delivery: str,
    manifest_sha256: str | None,
    size_bytes: int,
    pull_secret: str,
) -> Request:
    """Read what was asked for; everything that needs no cluster is refused here.

    Raises:
        RequestError: an option has a value that it cannot have.
    """
    from airfreight.delivery import parse_artifacts, parse_mode
    from airfreight.deployment import Request, make_plan

    request = Request(
        name,
        namespace,
        parse_artifacts(artifact),
        source,
        served_name,
        _serving(serving),
        parse_mode(delivery),
        _manifest_sha256(manifest_sha256),
        size_bytes,
        pull_secret,
    )
    make_plan(request)
    return request


def registries(request: Request, plain_http: bool) -> RegistrySettings:
    """Return how the registry of a request's image is asked."""
    from airfreight.environment import RegistrySettings

    host = request.artifacts.image.removeprefix("oci://").partition("/")[0]
    return RegistrySettings.from_environment([host] if plain_http and host else [])


def aside(sentence: str) -> None:
    """Tell a person something beside the command's output."""
    typer.echo(sentence, err=True)


def _serving(text: str) -> Serving:
    from airfreight.serving import parse_serving

    try:
        values: Any = json.loads(text)
    except ValueError as error:
        raise RequestError(f"--serving is no JSON ({error}); write it like '{{\"gpus\": 1}}'.") from None
    if not isinstance(values, dict):
        raise RequestError("--serving is no JSON object; write it like '{\"gpus\": 1}'.")
    return parse_serving(values)


def _manifest_sha256(value: str | None) -> str | None:
    if value is not None and (len(value) != 64 or value.strip("0123456789abcdef")):
        raise RequestError(f"--manifest-sha256 {value} is no sha256; write its 64 hex digits.")
    return value
