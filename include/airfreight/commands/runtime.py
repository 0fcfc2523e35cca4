"""`airfreight runtime pin`: make an immutable ServingRuntime from a template and an image's digest."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from airfreight.commands.common import write_result
from airfreight.errors import RequestError


def pin(
    image: Annotated[str, typer.Argument(help="The model server's image by digest: registry/name@sha256:....")],
    template: Annotated[str, typer.Option(help="vllm-cpu, vllm-gpu, or the path of a YAML file.")],
    setting: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="An environment variable (NAME=1) or argument (max-model-len=1)."
        ),
    ] = None,
    namespace: Annotated[str | None, typer.Option(help="Namespace it is to live in.")] = None,
    apply: Annotated[bool, typer.Option("--apply", help="Apply it to the cluster rather than print it.")] = False,
    result: Annotated[
        Path | None, typer.Option("--result", metavar="FILE", help="Write the result as one JSON object to this file.")
    ] = None,
) -> None:
    """Print a ServingRuntime, named by the hash of its content, or apply it.

    Example: airfreight runtime pin registry.example/vllm@sha256:<digest> --template vllm-gpu --namespace models --apply
    """
    import yaml

    from airfreight import runtime
    from airfreight.cluster import Cluster

    if apply and namespace is None:
        raise RequestError("--apply needs a namespace; add --namespace models.")
    pinned = runtime.pin(image, template, setting or [], namespace)
    name = pinned["metadata"]["name"]
    changed = False
    if apply:
        changed = runtime.install(Cluster.connect(), pinned).changed
        typer.echo(f"ServingRuntime {name} in {namespace}: {'applied' if changed else 'already there'}.")
    else:
        typer.echo(yaml.safe_dump(pinned, sort_keys=False), nl=False)
    if result is not None:
        write_result(result, {"name": name, "namespace": namespace, "image": image, "changed": changed})


def register(app: typer.Typer) -> None:
    """Add the commands."""
    runtimes = typer.Typer(
        help="Model servers: immutable ServingRuntimes, named by their content.", no_args_is_help=True
    )
    runtimes.command()(pin)
    # A group of one command would otherwise lose that command's name.
    runtimes.callback()(_group)
    app.add_typer(runtimes, name="runtime")


def _group() -> None:
    """Model servers: immutable ServingRuntimes, named by their content."""
