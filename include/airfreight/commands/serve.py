"""`airfreight validate | stop | resume`: what the serving half of a delivery runs once a release is applied."""

from __future__ import annotations

from typing import Annotated

import typer

from airfreight.commands.common import ResultOption, write_result

NameOption = Annotated[str, typer.Option(help="Name of the InferenceService.")]
NamespaceOption = Annotated[str, typer.Option(help="Namespace of the target.")]


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
    for command in (validate, stop, resume):
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
