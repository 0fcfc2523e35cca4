"""`airfreight tips`: where branches are now; what `refresh_models` runs in a pod."""

from __future__ import annotations

from typing import Annotated

import typer

from airfreight.commands.common import ResultOption, write_result
from airfreight.errors import AirfreightError


def register(app: typer.Typer) -> None:
    """Add `tips`."""
    app.command()(tips)


def tips(
    sources: Annotated[list[str], typer.Argument(metavar="SOURCE...", help="hf://owner/name@branch, any number.")],
    result: ResultOption = None,
) -> None:
    """Ask the hub at which commit each branch is, with one call. One that fails keeps no other from its answer.

    Example: airfreight tips hf://acme/pong@main hf://Qwen/Qwen2.5-0.5B-Instruct@main
    """
    from airfreight.environment import HubSettings
    from airfreight.stores.hub_tip import tip_of

    settings = HubSettings.from_environment()
    found: dict[str, dict[str, str]] = {}
    for source in dict.fromkeys(sources):
        try:
            found[source] = {"commit": tip_of(source, settings), "problem": ""}
        except AirfreightError as error:
            found[source] = {"commit": "", "problem": error.message}
        typer.echo(f"{source}: {found[source]['commit'] or found[source]['problem']}")
    write_result(result, {"tips": found})
