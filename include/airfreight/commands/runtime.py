"""`airfreight runtime pin`: make an immutable ServingRuntime from a template and an image; `airfreight runtime build`:
make that image with buildah, without weights.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from airfreight.commands.common import ResultOption, write_result
from airfreight.commands.images import PlainHttpOption
from airfreight.errors import RequestError

DEADLINE = 6 * 3600.0  # seconds
RESOLVE_DEADLINE = 120.0  # seconds


def pin(
    image: Annotated[
        str,
        typer.Argument(help="The model server's image: registry/name@sha256:..., or a tag, which is resolved now."),
    ],
    template: Annotated[str, typer.Option(help="vllm-cpu, vllm-gpu, or the path of a YAML file.")],
    setting: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="An environment variable (NAME=1) or argument (max-model-len=1)."
        ),
    ] = None,
    namespace: Annotated[str | None, typer.Option(help="Namespace it is to live in.")] = None,
    apply: Annotated[bool, typer.Option("--apply", help="Apply it to the cluster rather than print it.")] = False,
    offline: Annotated[
        bool, typer.Option("--offline", help="Ask no registry: take the digest as somebody else resolved it.")
    ] = False,
    plain_http: PlainHttpOption = False,
    result: Annotated[
        Path | None, typer.Option("--result", metavar="FILE", help="Write the result as one JSON object to this file.")
    ] = None,
) -> None:
    """Print a ServingRuntime, named by the hash of its content, or apply it.

    The registry is asked: a tag becomes the digest it stands for now, a digest must exist there.

    Example: airfreight runtime pin registry.example/vllm:v0.32.0 --template vllm-gpu --namespace models --apply
    """
    import yaml

    from airfreight import runtime, runtime_image
    from airfreight.cluster import Cluster
    from airfreight.environment import RegistrySettings
    from airfreight.retry import Patience
    from airfreight.stores.oci.reference import parse_image

    if apply and namespace is None:
        raise RequestError("--apply needs a namespace; add --namespace models.")
    runtime.load_template(template)  # what is wrong on this machine is said before a registry is asked
    named = parse_image(f"The image {image!r}", image)
    resolved = runtime_image.resolve(
        named,
        RegistrySettings.from_environment([named.registry] if plain_http else ()),
        Patience(deadline=time.monotonic() + RESOLVE_DEADLINE),
        offline=offline,
        say=lambda line: typer.echo(line, err=True),  # stdout is YAML for kubectl
    )
    pinned = runtime.pin(resolved, template, setting or [], namespace)
    name = pinned["metadata"]["name"]
    changed = False
    if apply:
        changed = runtime.install(Cluster.connect(), pinned).changed
        typer.echo(f"ServingRuntime {name} in {namespace}: {'applied' if changed else 'already there'}.")
    else:
        typer.echo(yaml.safe_dump(pinned, sort_keys=False), nl=False)
    if result is not None:
        write_result(result, {"name": name, "namespace": namespace, "image": resolved, "changed": changed})


def build(
    destination: Annotated[
        str,
        typer.Argument(
            metavar="DESTINATION",
            help="oci://registry/repository[:tag]; without a tag, 12 digits of the image's id.",
            show_default=False,
        ),
    ],
    containerfile: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="A Containerfile, or a shipped one: gpu (also without --context) or cpu."),
    ] = None,
    context: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="What its COPY lines read; its own Containerfile if no other is given."),
    ] = None,
    argument: Annotated[
        list[str] | None,
        typer.Option(
            "--base-arg", metavar="NAME=VALUE", help="Value of an ARG line, as BASE=registry/vllm@sha256:...."
        ),
    ] = None,
    plain_http: PlainHttpOption = False,
    deadline: Annotated[float, typer.Option("--deadline", metavar="SECONDS", min=1, help="Time for the whole.")] = (
        DEADLINE
    ),
    result: ResultOption = None,
) -> None:
    """Build a model server's image with buildah, on bases by digest alone, and send it to a registry.

    Needs root in its container, and room in TMPDIR for several times the base.

    Example: airfreight runtime build oci://registry.example/runtimes/vllm --base-arg
    BASE=registry.example/vllm-openai@sha256:<digest>
    """
    from airfreight import runtime_image
    from airfreight.buildah import Buildah, speaking_plain
    from airfreight.environment import RegistrySettings
    from airfreight.retry import Patience

    started = time.monotonic()
    place = runtime_image.parse_place(destination)
    recipe = runtime_image.Recipe.of(containerfile, context, argument or ())
    named = [image.registry for image in (place, *recipe.bases)]
    settings = RegistrySettings.from_environment(named if plain_http else ())
    patience = Patience(
        deadline=started + deadline, on_retry=lambda error: typer.echo(f"trying again: {error.message}")
    )
    plain = speaking_plain(settings, place, *recipe.bases)
    with Buildah.working(settings.login_file, plain, patience.check) as buildah:
        image, tag = runtime_image.build(recipe, place, settings, buildah, patience)
    value = {
        "image": image.name,
        "tag": tag,
        "bases": [base.name for base in recipe.bases],
        "containerfile": str(recipe.containerfile),
        "seconds": round(time.monotonic() - started, 3),
    }
    write_result(result, value)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    runtimes = typer.Typer(
        help="Model servers: immutable ServingRuntimes, named by their content.", no_args_is_help=True
    )
    runtimes.command()(pin)
    runtimes.command()(build)
    app.add_typer(runtimes, name="runtime")
