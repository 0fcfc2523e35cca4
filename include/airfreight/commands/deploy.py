"""`airfreight deploy | smoke | render`: from an artifact to an InferenceService, as far as each of them goes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from airfreight.commands.common import ResultOption, write_result
from airfreight.errors import GateError, RequestError

if TYPE_CHECKING:
    from airfreight.cluster import Applied, Cluster
    from airfreight.deployment import Plan, Request
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
PlainHttpOption = Annotated[bool, typer.Option("--plain-http", help="Ask the image's registry over plain http.")]


def deploy(
    name: NameOption,
    namespace: NamespaceOption,
    artifact: ArtifactOption,
    source: SourceOption,
    served_name: ServedNameOption,
    serving: ServingOption,
    delivery: DeliveryOption = "auto",
    manifest_sha256: ManifestOption = None,
    size_bytes: SizeOption = 0,
    pull_secret: PullSecretOption = "",
    plain_http: PlainHttpOption = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Ask the cluster, change nothing.")] = False,
    result: ResultOption = None,
) -> None:
    """Make one release of a model live: checked, rehearsed, then server-side apply. Does not wait for it.

    Example: airfreight deploy --name pong --namespace models --artifact s3://llm-models/acme/pong/3b1f9d2c4a5e/
    --source hf://acme/pong@3b1f9d2c --served-name pong --serving '{"runtime": "airfreight-vllm-cpu-1a2b3c4d5e6f"}'
    """
    from airfreight.cluster import Cluster
    from airfreight.deployment import rehearse, wrong_sentence
    from airfreight.observation import is_stopped
    from airfreight.smoke import table

    request = _request(
        name, namespace, artifact, source, served_name, serving, delivery, manifest_sha256, size_bytes, pull_secret
    )
    cluster = Cluster.connect()
    plan = _checked_plan(cluster, request, plain_http)
    rehearsal = rehearse(cluster, plan)
    if rehearsal.wrong:
        typer.echo(table(rehearsal.checks))
        raise GateError(wrong_sentence(plan, rehearsal))
    applied = cluster.apply(plan.object, dry_run=dry_run)
    stopped = is_stopped(applied.object)
    typer.echo(_story(plan, applied, dry_run, stopped))
    write_result(result, {**plan.result(), "changed": applied.changed, "stopped": stopped})


def smoke(
    name: NameOption,
    namespace: NamespaceOption,
    artifact: ArtifactOption,
    source: SourceOption,
    served_name: ServedNameOption,
    serving: ServingOption,
    delivery: DeliveryOption = "auto",
    manifest_sha256: ManifestOption = None,
    size_bytes: SizeOption = 0,
    pull_secret: PullSecretOption = "",
    plain_http: PlainHttpOption = False,
    result: ResultOption = None,
) -> None:
    """Show the pod that KServe would make, and whether it is right. Nothing is stored, pulled or started.

    Exit 2: the cluster cannot deliver in this mode; 4: KServe would make another pod than it should.

    Example: airfreight smoke --name pong --namespace models --delivery oci
    --artifact oci://registry.example/models/acme/pong@sha256:5c1b... --source hf://acme/pong@3b1f9d2c
    --served-name pong --serving '{"runtime": "airfreight-vllm-cpu-1a2b3c4d5e6f"}'
    """
    from airfreight.cluster import Cluster
    from airfreight.deployment import rehearse, wrong_sentence
    from airfreight.smoke import table

    request = _request(
        name, namespace, artifact, source, served_name, serving, delivery, manifest_sha256, size_bytes, pull_secret
    )
    cluster = Cluster.connect()
    plan = _checked_plan(cluster, request, plain_http)
    rehearsal = rehearse(cluster, plan)
    typer.echo(table(rehearsal.checks))
    checks = [{"name": check.name, "ok": check.ok, "found": check.found} for check in rehearsal.checks]
    write_result(result, {"delivery": str(plan.choice.mode), "release": plan.release, "checks": checks})
    if rehearsal.wrong:
        raise GateError(wrong_sentence(plan, rehearsal))


def render(
    name: NameOption,
    namespace: NamespaceOption,
    artifact: ArtifactOption,
    source: SourceOption,
    served_name: ServedNameOption,
    serving: ServingOption,
    delivery: DeliveryOption = "auto",
    manifest_sha256: ManifestOption = None,
    size_bytes: SizeOption = 0,
    pull_secret: PullSecretOption = "",
    plain_http: PlainHttpOption = False,
    result: ResultOption = None,
) -> None:
    """Print the InferenceService that `deploy` would apply, as YAML; apply nothing. For people who deploy by GitOps.

    A cluster is asked only where the delivery mode depends on it: an image, and --delivery auto.

    Example: airfreight render --name pong --namespace models --artifact s3://llm-models/acme/pong/3b1f9d2c4a5e/
    --source hf://acme/pong@3b1f9d2c --served-name pong --serving '{"runtime": "airfreight-vllm-cpu-1a2b3c4d5e6f"}'
    """
    import yaml

    from airfreight.deployment import make_plan

    request = _request(
        name, namespace, artifact, source, served_name, serving, delivery, manifest_sha256, size_bytes, pull_secret
    )
    if request.needs_facts:
        from airfreight.cluster import Cluster
        from airfreight.deployment import ask

        # What is told goes to stderr: stdout is the object's.
        facts, _ = ask(Cluster.connect(), request, _registries(request, plain_http), _aside)
        plan = make_plan(request, facts)
        _aside(f"Delivery {plan.choice.mode}: {plan.choice.reason}.")
    else:
        plan = make_plan(request)
    typer.echo(yaml.safe_dump(plan.object, sort_keys=False, width=120), nl=False)
    if result is not None:
        write_result(result, {**plan.result(), "object": plan.object})


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (deploy, smoke, render):
        app.command()(command)


def _checked_plan(cluster: Cluster, request: Request, plain_http: bool) -> Plan:
    """Choose the delivery mode by what the cluster says, and check what its pods need; each finding is shown."""
    from airfreight.deployment import ask, check, make_plan

    facts, size_bytes = ask(cluster, request, _registries(request, plain_http), typer.echo)
    plan = make_plan(request, facts)
    typer.echo(f"Delivery {plan.choice.mode}: {plan.choice.reason}.")
    check(cluster, plan, size_bytes, typer.echo)
    return plan


def _request(
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
    """Read what was asked for; everything that needs no cluster is refused here."""
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


def _registries(request: Request, plain_http: bool) -> RegistrySettings:
    from airfreight.environment import RegistrySettings

    host = request.artifacts.image.removeprefix("oci://").partition("/")[0]
    return RegistrySettings.from_environment([host] if plain_http and host else [])


def _aside(sentence: str) -> None:
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


def _story(plan: Plan, applied: Applied, dry_run: bool, stopped: bool) -> str:
    what = f"{plan.request.name} in {plan.request.namespace}, release {plan.release}"
    asleep = " It is stopped and stays so." if stopped else ""
    if dry_run:
        return f"{what}: the cluster would {'change it' if applied.changed else 'change nothing'}.{asleep}"
    return f"{what}: {'applied' if applied.changed else 'already there, nothing changed'}.{asleep}"
