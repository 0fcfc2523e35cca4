"""What every command shares: the `--result` option and how a result is written.

A command is a plain function. It raises an `AirfreightError` when it cannot do its work; `airfreight.cli.main` turns
that into one sentence and an exit code. It never prints errors, never calls `sys.exit`, and imports heavy packages in
its body.

    from airfreight.commands.common import ResultOption, write_result

    def wake(
        name: Annotated[str, typer.Option(help="Name of the InferenceService.")],
        result: ResultOption = None,
    ) -> None:
        \"\"\"Start a stopped model.

        Example: airfreight wake --name pong
        \"\"\"
        from airfreight.cluster import Cluster  # heavy, so imported late

        write_result(result, {"name": name, "changed": Cluster.connect().wake(name)})

    def register(app: typer.Typer) -> None:
        app.command()(wake)

The result file holds one JSON object on one line, sorted keys:

    {"changed": true, "name": "pong"}
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from airfreight.errors import RequestError

ResultOption = Annotated[
    Path | None,
    typer.Option(
        "--result",
        metavar="FILE",
        help="Write the result as one JSON object to this file (a pod: /airflow/xcom/return.json).",
        show_default=False,
    ),
]


def write_result(path: Path | None, value: Mapping[str, object]) -> None:
    """Write `value` as one JSON object to `path`: whole or not at all. Without a path it is printed to stdout.

    What is there and is no regular file (/dev/null, /dev/stdout, a pipe) is written into, not replaced. The parent
    directory is made. The file is readable by everybody: in a pod another container reads it.

    Raises:
        RequestError: the file cannot be written there.
    """
    text = json.dumps(value, sort_keys=True, ensure_ascii=False) + "\n"
    if path is None:
        typer.echo(text, nl=False)
        return
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            path.write_text(text, encoding="utf-8")
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise _unwritable(path, error) from error
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> RequestError:
    reason = error.strerror or type(error).__name__
    return RequestError(
        f"The result cannot be written to {path} ({reason}): give --result a file in a directory that can be written."
    )
