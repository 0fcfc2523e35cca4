"""`airfreight catalog check | list | render`: the catalog, for people and for CI."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from airfreight.commands.common import write_result
from airfreight.errors import RequestError

if TYPE_CHECKING:
    from airfreight.catalog import CatalogModel

FileOption = Annotated[Path | None, typer.Option("--file", help="The catalog.", show_default="include/models.yaml")]
ResultFile = Annotated[
    Path | None, typer.Option("--result", metavar="FILE", help="Write the result as one JSON object to this file.")
]
_COMMIT = re.compile(r"[0-9a-f]{40}")


def check(file: FileOption = None, result: ResultFile = None) -> None:
    """Check the catalog; each problem is one line, file:line: sentence. Exit 2 when there is one.

    Example: airfreight catalog check --file include/models.yaml
    """
    from airfreight.catalog import CATALOG, CatalogError, load

    path = file or CATALOG
    try:
        models = load(path)
    except CatalogError as error:
        # The last one is the error itself; a list ends with it, so that each problem is said once.
        for problem in error.problems[1:]:
            typer.echo(str(problem), err=True)
        raise RequestError(str(error.problems[0])) from None
    typer.echo(f"{path}: {len(models)} models, all well.")
    if result is not None:
        write_result(result, {"models": len(models)})


def list_models(file: FileOption = None, result: ResultFile = None) -> None:
    """List the models of the catalog: where from, where to, when served, and what their gates are asked.

    Example: airfreight catalog list
    """
    from airfreight.catalog import CATALOG, load

    models = load(file or CATALOG)
    rows = [(*_delivered(model), _windows(model), _gates(model)) for model in models]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    if not rows:
        typer.echo("The catalog is empty.")
    if result is not None:
        write_result(result, {"models": [model.model_dump() for model in models]})


def render(
    name: Annotated[str, typer.Argument(help="Name of a model in the catalog.")],
    file: FileOption = None,
    namespace: Annotated[str, typer.Option(help="Namespace of the target.")] = "models",
    artifact: Annotated[
        str | None, typer.Option(help="What to serve; needed unless the revision is a commit.", show_default=False)
    ] = None,
    store: Annotated[str, typer.Option(help="Store root that holds the artifact.")] = "s3://llm-models/",
    runtime: Annotated[str | None, typer.Option(help="ServingRuntime, where the catalog names none.")] = None,
    result: ResultFile = None,
) -> None:
    """Print the InferenceService of a model, without its release id. Nothing is looked up.

    What its `validation` asks is no part of it: whoever applies it by hand asks with `airfreight validate`.

    Example: airfreight catalog render pong --runtime airfreight-vllm-cpu-1a2b3c4d5e6f
    --artifact s3://llm-models/acme/pong/3b1f9d2c4a5e/
    """
    import yaml

    from airfreight.catalog import CATALOG, load
    from airfreight.rendering import Deployment
    from airfreight.rendering import render as render_object
    from airfreight.serving import nearest

    models = {model.name: model for model in load(file or CATALOG)}
    if name not in models:
        raise RequestError(f"The catalog has no model {name}{nearest(name, list(models))}")
    model = models[name]
    chosen = model.serving.runtime or runtime
    if chosen is None:
        raise RequestError(f"{name} names no runtime; add --runtime, or serving.runtime to the catalog.")
    rendered = render_object(
        Deployment(
            name=name,
            namespace=namespace,
            artifact=_as_delivered(model, artifact or _artifact(model, store)),
            source=str(model.hub_model),
            served_name=name,
            runtime=chosen,
            serving=model.serving,
        )
    )
    typer.echo(yaml.safe_dump(rendered, sort_keys=False), nl=False)
    if result is not None:
        write_result(result, rendered)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    catalog = typer.Typer(help="The catalog of models, include/models.yaml.", no_args_is_help=True)
    catalog.command()(check)
    catalog.command("list")(list_models)
    catalog.command()(render)
    app.add_typer(catalog, name="catalog")


def _delivered(model: CatalogModel) -> tuple[str, ...]:
    return model.name, str(model.hub_model), model.destination, f"{model.serving.gpus} GPUs"


def _windows(model: CatalogModel) -> str:
    """When it is served and refreshed, in a few words; empty: all the time, and never."""
    from airfreight.hours import summary

    parts = [summary(model.hours)] if model.hours else []
    parts += [f"idle {model.idle_after}"] if model.idle_after else []
    parts += ["refreshed daily"] if model.refresh == "daily" else []
    return ", ".join(parts)


def _gates(model: CatalogModel) -> str:
    """What its gates are asked beyond an answer, in a few words; empty: nothing."""
    from airfreight.gate_wishes import summary

    asked = summary(model.validation)
    return f"asked: {asked}" if asked else ""


def _as_delivered(model: CatalogModel, artifact: str) -> str:
    """Return what KServe is told: an image that is to be mounted has a scheme of its own."""
    from airfreight.delivery import Artifacts, Mode

    native = model.delivery == str(Mode.NATIVE) and artifact.startswith("oci://")
    return Artifacts(image=artifact).storage_uri(Mode.NATIVE) if native else artifact


def _artifact(model: CatalogModel, store: str) -> str:
    """Name the artifact of a model whose revision is a commit: its version is the commit's first 12 digits."""
    from airfreight.source import parse_destination

    hub_model = model.hub_model
    if model.destination == "oci":
        raise RequestError(
            f"{model.name} is published as an image, which is named by a digest that only its build knows; give the "
            "oci://...@sha256:... that the run of deliver_model printed as --artifact."
        )
    if model.patterns.allow or model.patterns.ignore:
        raise RequestError(
            f"{model.name} has patterns, so its artifact is named after the files they leave; give the one that "
            f"`airfreight resolve {hub_model} --store {store}` prints with the same --allow and --ignore as --artifact."
        )
    if not _COMMIT.fullmatch(hub_model.revision):
        raise RequestError(
            f"{model.name} is at {hub_model.revision}, which may move, so its artifact has no fixed name; give "
            f"the one that `airfreight resolve {hub_model} --store {store}` prints as --artifact."
        )
    return f"{parse_destination(store)}{hub_model.repo_id}/{hub_model.revision[:12]}/"
