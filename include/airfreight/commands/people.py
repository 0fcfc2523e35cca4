"""`airfreight deliver` and `airfreight status`: a delivery from a shell, over Airflow's REST API.

    $ airfreight deliver acme/pong --set gpus=1 --follow
    deliver_model manual__2026-11-22T16:11:00+00:00
      resolve            running
      resolve            success     6.1 s
      …

Exit codes of `--follow` are those of the failed task: 2 the request is wrong, 3 the bytes are wrong, 4 a gate failed,
75 try again; 1 when the run failed without one of them (somebody stopped it, a worker died).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from airfreight.commands.common import ResultOption, write_result
from airfreight.errors import RequestError

if TYPE_CHECKING:
    from airfreight.airflow_api import AirflowApi, RunSummary, TaskRow

DAG_ID = "deliver_model"
_UNDER_WAY = ("running", "deferred")
# Tasks whose result names an artifact, and those that copy before one of these seals.
_PUBLISHING = ("upload_to_s3", "build_modelcar", "build_with_buildah")
_COPYING = ("upload_slices", "build_slices", "upload_from_volume", "build_from_volume")


def register(app: typer.Typer) -> None:
    """Add `deliver` and `status`."""
    app.command()(deliver)
    app.command()(status)


def deliver(
    model: Annotated[str, typer.Argument(help="Name on the hub, owner/name.")],
    revision: Annotated[str, typer.Option(help="Branch, tag or commit; empty: main.")] = "",
    name: Annotated[str, typer.Option(help="Name of the InferenceService; empty: derived from the model.")] = "",
    namespace: Annotated[str, typer.Option(help="Where it is served; empty: the site's default.")] = "",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any other field of the form; lists as JSON. Repeatable."),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Wait, show each step, and end as the run ends.")] = False,
    result: ResultOption = None,
) -> None:
    """Deliver a model: trigger a run of deliver_model.

    Example: airfreight deliver acme/pong --set gpus=1 --follow
    """
    from airfreight.airflow_api import AirflowApi

    given = {"model": model, "revision": revision, "name": name, "namespace": namespace}
    with AirflowApi.from_environment() as api:
        conf = {key: value for key, value in given.items() if value}
        if settings:
            conf |= parse_settings(settings, api.params(DAG_ID))
        run_id = api.trigger(DAG_ID, conf)
        typer.echo(f"{DAG_ID} {run_id}")
        if not follow:
            typer.echo(f"follow it: airfreight status {run_id}")
            if result is not None:
                write_result(result, {"dag_id": DAG_ID, "run_id": run_id})
            return
        show(api, DAG_ID, run_id)
        _end(api.run_summary(DAG_ID, run_id), result)


def status(
    run_id: Annotated[str, typer.Argument(help="Id of the run, as `deliver` printed it.")],
    result: ResultOption = None,
) -> None:
    """Show how a run stands: its steps with their seconds, and the error if it failed.

    Example: airfreight status manual__2026-11-22T16:11:00+00:00
    """
    from airfreight.airflow_api import AirflowApi

    with AirflowApi.from_environment() as api:
        summary = api.run_summary(DAG_ID, run_id)
    for line in summary_lines(summary):
        typer.echo(line)
    if result is not None:
        write_result(result, summary.to_json())


def parse_settings(settings: list[str], params: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Read `key=value` pairs by the schema of the DAG's params.

    Raises:
        RequestError: no "=", an unknown key (with the nearest right one), or a value of the wrong type.
    """
    from airfreight.serving import nearest

    conf: dict[str, Any] = {}
    for setting in settings:
        key, separator, text = setting.partition("=")
        if not separator:
            raise RequestError(f'--set "{setting}" has no value: write it as --set key=value.')
        if key not in params:
            raise RequestError(f'--set "{setting}": there is no field "{key}"{nearest(key, sorted(params))}.')
        conf[key] = _value(setting, text, params[key].get("schema") or {})
    return conf


def show(api: AirflowApi, dag_id: str, run_id: str) -> None:
    """Print a line per change of a task until the run is over; on a terminal also a live line with seconds."""
    live = _LiveLine() if sys.stdout.isatty() else None
    for change in api.follow(dag_id, run_id, on_look=live.draw if live else None):
        if live:
            live.clear()
        if change.state == "skipped" or (live and change.state in _UNDER_WAY):
            continue  # not on this run's way; the live line shows it
        seconds = None if change.state in _UNDER_WAY else change.seconds
        typer.echo(task_line(change.task_id, change.state, seconds, change.try_number))
    if live:
        live.clear()


def task_line(task_id: str, state: str | None, seconds: float | None, try_number: int) -> str:
    """One task on one line, e.g. `  upload_to_s3          success     8.0 s`."""
    time = "" if seconds is None or state in ("scheduled", "queued") else f"{seconds:8.1f} s"
    tried = f"  (try {try_number})" if try_number > 1 else ""
    return f"  {task_id:<21} {state or 'waiting':<14}{time}{tried}".rstrip()


def summary_lines(summary: RunSummary) -> list[str]:
    """A run as a person reads it; tasks that are not on its way are left out."""
    lines = [f"{summary.dag_id} {summary.run_id}: {summary.state}, {summary.seconds:.1f} s"]
    lines += [
        task_line(task.task_id, task.state, task.seconds, task.try_number)
        for task in summary.tasks
        if task.state != "skipped"
    ]
    lines += _published_lines(summary)
    if deployed := summary.results.get("deploy"):
        mode = f", delivery {deployed['delivery']}" if deployed.get("delivery") else ""
        lines.append(f"  service   {deployed['url']}  (release {deployed['release']}{mode})")
    if rendered := summary.results.get("render"):
        lines.append(f"  rendered  {rendered['name']}, release {rendered['release']}; the YAML is in the log of render")
    if validated := summary.results.get("validate"):
        lines.append(f"  question  {validated['question']}")
        lines.append(f"  answer    {validated['answer']}  (system_fingerprint {validated['system_fingerprint']})")
    if summary.airflow_seconds is not None:
        lines.append(f"  Airflow's own share: {summary.airflow_seconds:.1f} s of {summary.seconds:.1f} s")
    if error := summary.error():
        lines.append(f"  {error.message}")
    return lines


def _published_lines(summary: RunSummary) -> list[str]:
    copies = [summary.results[task_id] for task_id in _PUBLISHING if task_id in summary.results]
    if not copies:
        return []
    moved = sum(float(copied.get("moved_bytes") or 0) for task, copied in summary.results.items() if _is_copy(task))
    size = f"  ({copies[0]['size_bytes'] / 1e6:,.1f} MB, moved {moved / 1e6:,.1f} MB)"
    return [f"  source    {copies[0]['source']}", *(f"  artifact  {copied['artifact']}{size}" for copied in copies)]


def _is_copy(task_id: str) -> bool:
    """Whether a task moves bytes into a store or a registry; what goes onto a volume is moved once more from there."""
    return task_id.partition("[")[0] in (*_PUBLISHING, *_COPYING)


def _end(summary: RunSummary, result: Any) -> None:
    if result is not None:
        write_result(result, summary.to_json())
    if error := summary.error():
        raise error
    for line in summary_lines(summary):
        typer.echo(line)


def _value(setting: str, text: str, schema: Mapping[str, Any]) -> Any:
    kinds = schema.get("type", "string")
    kinds = {kinds} if isinstance(kinds, str) else set(kinds)
    if "string" in kinds:
        return text
    try:
        return json.loads(text)
    except ValueError:
        wanted = " or ".join(sorted(kinds - {"null"}))
        raise RequestError(f'--set "{setting}": the value must be {wanted}, written as JSON.') from None


class _LiveLine:
    """The last line of a terminal: what is under way, and for how long. Other lines are printed above it."""

    def __init__(self) -> None:
        self._length = 0

    def draw(self, tasks: list[TaskRow]) -> None:
        now = [f"{task.task_id} {task.seconds or 0:.0f} s" for task in tasks if task.state in _UNDER_WAY]
        text = f"  … {', '.join(now) or 'waiting for Airflow'}"[:119]
        sys.stdout.write("\r" + text.ljust(self._length))
        sys.stdout.flush()
        self._length = len(text)

    def clear(self) -> None:
        sys.stdout.write("\r" + " " * self._length + "\r")
        sys.stdout.flush()
        self._length = 0
