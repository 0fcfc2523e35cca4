"""`airfreight deploy | smoke | render`: from an artifact to an InferenceService, as far as each of them goes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from airfreight.commands.common import ResultOption, write_result
from airfreight.commands.requesting import (
    ArtifactOption,
    DeliveryOption,
    ManifestOption,
    NameOption,
    NamespaceOption,
    PlainHttpOption,
    PullSecretOption,
    ServedNameOption,
    ServingOption,
    SizeOption,
    SourceOption,
    TakeOverOption,
    aside,
    checked_plan,
    read_request,
    registries,
)
from airfreight.errors import GateError

if TYPE_CHECKING:
    from airfreight.cluster import Applied
    from airfreight.deployment import Plan


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
    take_over: TakeOverOption = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Ask the cluster, change nothing.")] = False,
    result: ResultOption = None,
) -> None:
    """Make one release of a model live: checked, rehearsed, then server-side apply. Does not wait for it.

    Example: airfreight deploy --name pong --namespace models --artifact s3://llm-models/acme/pong/3b1f9d2c4a5e/
    --source hf://acme/pong@3b1f9d2c --served-name pong --serving '{"runtime": "airfreight-vllm-cpu-1a2b3c4d5e6f"}'
    """
    from airfreight.cluster import Cluster
    from airfreight.deployment import wrong_sentence
    from airfreight.observation import is_stopped
    from airfreight.pulling import check_proof
    from airfreight.smoke import table

    request = read_request(
        name, namespace, artifact, source, served_name, serving, delivery, manifest_sha256, size_bytes, pull_secret
    )
    cluster = Cluster.connect()
    plan, rehearsal, nodes = checked_plan(cluster, request, plain_http, take_over)
    if rehearsal.wrong:
        typer.echo(table(rehearsal.checks))
        raise GateError(wrong_sentence(plan, rehearsal))
    check_proof(cluster, plan, rehearsal, nodes)
    applied = cluster.apply(plan.object, dry_run=dry_run, take_over=take_over)
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
    take_over: TakeOverOption = False,
    result: ResultOption = None,
) -> None:
    """Show the pod that KServe would make, and whether it is right. Nothing is stored, pulled or started.

    Exit 2: the cluster cannot deliver in this mode; 4: KServe would make another pod than it should.

    Example: airfreight smoke --name pong --namespace models --delivery oci
    --artifact oci://registry.example/models/acme/pong@sha256:5c1b... --source hf://acme/pong@3b1f9d2c
    --served-name pong --serving '{"runtime": "airfreight-vllm-cpu-1a2b3c4d5e6f"}'
    """
    from airfreight.cluster import Cluster
    from airfreight.deployment import wrong_sentence
    from airfreight.smoke import table

    request = read_request(
        name, namespace, artifact, source, served_name, serving, delivery, manifest_sha256, size_bytes, pull_secret
    )
    cluster = Cluster.connect()
    plan, rehearsal, _ = checked_plan(cluster, request, plain_http, take_over)
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

    request = read_request(
        name, namespace, artifact, source, served_name, serving, delivery, manifest_sha256, size_bytes, pull_secret
    )
    if request.needs_facts:
        from airfreight.cluster import Cluster
        from airfreight.deployment import ask

        # What is told goes to stderr: stdout is the object's.
        facts, _ = ask(Cluster.connect(), request, registries(request, plain_http), aside)
        plan = make_plan(request, facts)
        aside(f"Delivery {plan.choice.mode}: {plan.choice.reason}.")
    else:
        plan = make_plan(request)
    typer.echo(yaml.safe_dump(plan.object, sort_keys=False, width=120), nl=False)
    if result is not None:
        write_result(result, {**plan.result(), "object": plan.object})


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (deploy, smoke, render):
        app.command()(command)


def _story(plan: Plan, applied: Applied, dry_run: bool, stopped: bool) -> str:
    what = f"{plan.request.name} in {plan.request.namespace}, release {plan.release}"
    asleep = " It is stopped and stays so." if stopped else ""
    if dry_run:
        return f"{what}: the cluster would {'change it' if applied.changed else 'change nothing'}.{asleep}"
    return f"{what}: {'applied' if applied.changed else 'already there, nothing changed'}.{asleep}"
