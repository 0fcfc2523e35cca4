"""`airfreight validate | stop | resume`: what the serving half of a delivery runs once a release is applied."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from airfreight.commands.common import ResultOption, write_result
from airfreight.errors import RequestError

NameOption = Annotated[str, typer.Option(help="Name of the InferenceService.")]
NamespaceOption = Annotated[str, typer.Option(help="Namespace of the target.")]


def validate(
    url: Annotated[str, typer.Option(help="Of the model server, without a path.")],
    served_name: Annotated[str, typer.Option(help="Name of the model in the OpenAI API.")],
    question: Annotated[str, typer.Option(help="What to ask.")] = "ping",
    max_ttft: Annotated[str, typer.Option(metavar="SECONDS", help="To the first token, at most; empty: any.")] = "",
    min_tokens_per_s: Annotated[str, typer.Option(metavar="N", help="After it, at least; empty: any.")] = "",
    prompts: Annotated[
        str, typer.Option(metavar="JSON", help='[{"prompt": "2+2?", "expect": "4"}]; expect is a regular expression.')
    ] = "",
    gpus: Annotated[int, typer.Option(min=0, help="GPUs that must really be used.")] = 0,
    ready: Annotated[str, typer.Option(metavar="JSON", help="What the wait for the release saw of its pod.")] = "",
    gateway_url: Annotated[str, typer.Option(help="The way users come, asked too; empty: not asked.")] = "",
    gateway_host: Annotated[str, typer.Option(help="Host header for it, and name in its certificate.")] = "",
    ca_file: Annotated[Path | None, typer.Option(help="CAs that certificates are checked against, in PEM.")] = None,
    result: ResultOption = None,
) -> None:
    """Show that a model answers, and well enough: /v1/models names it, and a streamed chat completion returns text.

    Example: airfreight validate --url http://pong-predictor.models.svc.cluster.local --served-name pong --max-ttft 2
    """
    from airfreight.chat import ChatServer
    from airfreight.gates import FailedGatesError, check, gates_table
    from airfreight.validation import Wanted, held_gpus, parse_prompts
    from airfreight.validation import validate as run

    wanted = Wanted(
        max_ttft_s=_number("--max-ttft", max_ttft),
        min_tokens_per_s=_number("--min-tokens-per-s", min_tokens_per_s),
        prompts=parse_prompts(prompts),
        gpus=gpus,
        gpus_held=held_gpus(ready),
    )
    bundle = str(ca_file) if ca_file else None
    gateway = ChatServer(gateway_url, host=gateway_host, ca_file=bundle) if gateway_url else None
    try:
        with ChatServer(url, ca_file=bundle) as server:
            validation = run(server, served_name, question, wanted=wanted, gateway=gateway)
    except FailedGatesError as error:
        typer.echo(gates_table(error.gates))
        write_result(result, {"gates": [one.result() for one in error.gates]})
        raise
    typer.echo(validation.table())
    write_result(result, validation.result())
    check(validation.gates)


def resume(name: NameOption, namespace: NamespaceOption, result: ResultOption = None) -> None:
    """Start a stopped model again. Does not wait for it.

    Example: airfreight resume --name pong --namespace models
    """
    set_power(name, namespace, False, result)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (validate, resume):
        app.command()(command)


def set_power(name: str, namespace: str, stopped: bool, result: ResultOption) -> None:
    from airfreight.cluster import Cluster
    from airfreight.rendering import check_name, check_namespace

    check_name(name)
    check_namespace(namespace)
    changed = Cluster.connect().set_stopped(namespace, name, stopped).changed
    word = "stopped" if stopped else "resumed"
    typer.echo(f"{name} in {namespace} is {word}." if changed else f"{name} in {namespace} was {word} already.")
    write_result(result, {"name": name, "namespace": namespace, "stopped": stopped, "changed": changed})


def _number(option: str, text: str) -> float | None:
    """Read a threshold; an empty one, as a form sends it, is none."""
    if not text.strip():
        return None
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise RequestError(
            f"{option} is {text!r}, which is no number above zero; write it like 2.5, or leave it empty."
        )
    return value
