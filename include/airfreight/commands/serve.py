"""`airfreight deploy | validate | stop | resume`: what the serving half of a delivery runs in its pods."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from airfreight.commands.common import ResultOption, write_result
from airfreight.errors import RequestError

if TYPE_CHECKING:
    from airfreight.cluster import Applied
    from airfreight.serving import Serving

NameOption = Annotated[str, typer.Option(help="Name of the InferenceService.")]
NamespaceOption = Annotated[str, typer.Option(help="Namespace of the target.")]


def deploy(
    name: NameOption,
    namespace: NamespaceOption,
    artifact: Annotated[str, typer.Option(help="s3://bucket/repository/version/, or oci://...@sha256:....")],
    source: Annotated[str, typer.Option(help="Where the artifact came from, at its commit; recorded.")],
    served_name: Annotated[str, typer.Option(help="Name of the model in the OpenAI API.")],
    serving: Annotated[str, typer.Option(metavar="JSON", help="The serving block; runtime is required in it.")],
    manifest_sha256: Annotated[
        str | None, typer.Option(help="sha256 of the artifact's manifest, 64 hex digits.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Ask the cluster, change nothing.")] = False,
    result: ResultOption = None,
) -> None:
    """Make one release of a model live: server-side apply, after a dry run. Does not wait for it.

    Example: airfreight deploy --name pong --namespace models --artifact s3://llm-models/acme/pong/3b1f9d2c4a5e/
    --source hf://acme/pong@3b1f9d2c --served-name pong --serving '{"runtime": "airfreight-vllm-cpu-1a2b3c4d5e6f"}'
    """
    from airfreight.cluster import Cluster
    from airfreight.observation import is_stopped
    from airfreight.preflight import check_target
    from airfreight.release import release_id
    from airfreight.rendering import Deployment, render, service_url, with_release

    block = _serving(serving)
    if block.runtime is None:
        raise RequestError("serving: runtime: no ServingRuntime is named and the site has no default; name one.")
    rendered = render(Deployment(name, namespace, artifact, source, served_name, block.runtime, block))
    release = release_id(artifact, _manifest_sha256(manifest_sha256), block.runtime, rendered)
    cluster = Cluster.connect()
    check_target(cluster, namespace, block.runtime, artifact)
    applied = cluster.apply(with_release(rendered, release), dry_run=dry_run)
    stopped = is_stopped(applied.object)
    typer.echo(_story(name, namespace, release, applied, dry_run, stopped))
    write_result(
        result,
        {
            "release": release,
            "name": name,
            "namespace": namespace,
            "runtime": block.runtime,
            "changed": applied.changed,
            "stopped": stopped,
            "url": service_url(name, namespace),
            "served_name": served_name,
        },
    )


def validate(
    url: Annotated[str, typer.Option(help="Of the model server, without a path.")],
    served_name: Annotated[str, typer.Option(help="Name of the model in the OpenAI API.")],
    question: Annotated[str, typer.Option(help="What to ask.")] = "ping",
    result: ResultOption = None,
) -> None:
    """Show that a model answers: /v1/models names it, and one streamed chat completion returns text.

    Example: airfreight validate --url http://pong-predictor.models.svc.cluster.local --served-name pong
    """
    from airfreight.chat import ChatServer
    from airfreight.validation import validate as run

    with ChatServer(url) as server:
        validation = run(server, served_name, question)
    typer.echo(validation.table())
    write_result(result, validation.result())


def stop(name: NameOption, namespace: NamespaceOption, result: ResultOption = None) -> None:
    """Stop a model: its pods end and their GPUs become free. Its InferenceService stays.

    Example: airfreight stop --name pong --namespace models
    """
    _power(name, namespace, True, result)


def resume(name: NameOption, namespace: NamespaceOption, result: ResultOption = None) -> None:
    """Start a stopped model again. Does not wait for it.

    Example: airfreight resume --name pong --namespace models
    """
    _power(name, namespace, False, result)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (deploy, validate, stop, resume):
        app.command()(command)


def _power(name: str, namespace: str, stopped: bool, result: ResultOption) -> None:
    from airfreight.cluster import Cluster
    from airfreight.rendering import check_name, check_namespace

    check_name(name)
    check_namespace(namespace)
    changed = Cluster.connect().set_stopped(namespace, name, stopped).changed
    word = "stopped" if stopped else "resumed"
    typer.echo(f"{name} in {namespace} is {word}." if changed else f"{name} in {namespace} was {word} already.")
    write_result(result, {"name": name, "namespace": namespace, "stopped": stopped, "changed": changed})


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


def _story(name: str, namespace: str, release: str, applied: Applied, dry_run: bool, stopped: bool) -> str:
    what = f"{name} in {namespace}, release {release}"
    asleep = " It is stopped and stays so." if stopped else ""
    if dry_run:
        return f"{what}: the cluster would {'change it' if applied.changed else 'change nothing'}.{asleep}"
    return f"{what}: {'applied' if applied.changed else 'already there, nothing changed'}.{asleep}"
