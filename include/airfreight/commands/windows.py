"""`airfreight wake | stop | report`, for people, and `stop` and `ping` as the pods of a window run them.

airfreight wake pong                         over Airflow: open a window now; says when the model will answer
airfreight stop pong [--now]                 over Airflow: stop it when nothing runs, or at once
airfreight stop --name pong --namespace models [--last-look JSON]      in a pod, or with a kubeconfig
airfreight report --store s3://llm-models/   sums of the recorded windows
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from airfreight.commands.common import ResultOption, write_result
from airfreight.errors import RequestError

if TYPE_CHECKING:
    from airfreight.airflow_api import AirflowApi
    from airfreight.window_sums import Month
    from airfreight.windows import Record

OPEN_TASK = "open_window"
UNDER_WAY = ("queued", "running")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (wake, stop, ping, report):
        app.command()(command)


def wake(
    name: Annotated[str, typer.Argument(help="Of the model in the catalog.")], result: ResultOption = None
) -> None:
    """Open a window now: start a model, and say when it will answer. It is stopped again when it is idle.

    Asked many times at once, it opens one window. Example: airfreight wake pong
    """
    from airfreight.airflow_api import AirflowApi

    dag_id = _dag_id(name)
    with AirflowApi.from_environment() as api:
        _refuse_asleep(api, dag_id, name)
        runs = api.runs(dag_id)
        # A run that keeps a window takes a note of this one, so that the model is not stopped a moment later. All who
        # wake it at the same time give their run the same id, and Airflow takes one.
        run_id = _asked_just_now(runs) or _trigger_once(api, dag_id, _wake_id(runs), {"action": "open"})
        eta = _eta(api, dag_id, runs)
    typer.echo(f"{dag_id} {run_id}: {_eta_words(eta)}")
    if result is not None:
        write_result(result, {"dag_id": dag_id, "run_id": run_id, **eta})


def stop(
    model: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Of the model in the catalog; over Airflow.")
    ] = None,
    now: Annotated[bool, typer.Option("--now", help="Do not wait until nothing runs.")] = False,
    name: Annotated[str, typer.Option(help="Name of the InferenceService; straight at the cluster.")] = "",
    namespace: Annotated[str, typer.Option(help="Namespace of the target, with --name.")] = "",
    last_look: Annotated[
        str, typer.Option(metavar="JSON", help="Why, with --name: look once more first (airfreight/last_look.py).")
    ] = "",
    result: ResultOption = None,
) -> None:
    """Stop a model: its pods end and their GPUs become free. Its InferenceService stays.

    Example: airfreight stop pong --now
    """
    if (model is None) == (not name):
        raise RequestError(
            "Give the model's NAME, to stop it over Airflow, or --name and --namespace, for the cluster."
        )
    if model is not None:
        _stop_over_airflow(model, now, result)
    else:
        _stop_here(name, namespace, last_look, result)


def ping(
    url: Annotated[str, typer.Option(help="Of the model server, without a path.")],
    served_name: Annotated[str, typer.Option(help="Name of the model in the OpenAI API.")],
    question: Annotated[str, typer.Option(help="What to ask.")] = "ping",
    result: ResultOption = None,
) -> None:
    """Ask a model one thing, and say when its first token came. No gate: `validate` is that.

    Example: airfreight ping --url http://pong-predictor.models.svc.cluster.local --served-name pong
    """
    from datetime import timedelta

    from airfreight.chat import ChatServer
    from airfreight.validation import PATIENCE, check_answer
    from airfreight.windows import text_of

    with ChatServer(url) as server:
        answer = PATIENCE.call(lambda: server.chat(served_name, question))
    check_answer(url, served_name, question, answer)
    first = datetime.now(UTC) - timedelta(seconds=answer.seconds - answer.ttft_s)
    typer.echo(f"{served_name} answered: {answer.text}")
    write_result(result, {"first_token": text_of(first), "ttft_s": round(answer.ttft_s, 3), "answer": answer.text})


def report(
    store: Annotated[str, typer.Option(help="Root of the store with the records.")] = "s3://llm-models/",
    namespace: Annotated[str, typer.Option(help="Namespace of the models.")] = "models",
    model: Annotated[list[str] | None, typer.Option("--model", help="Only this one; repeatable.")] = None,
    month: Annotated[str, typer.Option(help="Only this one, such as 2026-11.")] = "",
    result: ResultOption = None,
) -> None:
    """Sum up the recorded windows: hours paid, served and saved, by model and month.

    Reads the store with the AWS_* variables. Example: airfreight report --store s3://llm-models/ --month 2026-11
    """
    from dataclasses import asdict

    from airfreight.window_sums import sum_up

    months = [
        one for one in sum_up(_records(store, namespace, model), datetime.now(UTC)) if one.month.startswith(month)
    ]
    for line in _table(months):
        typer.echo(line)
    if result is not None:
        write_result(result, {"months": [asdict(one) for one in months]})


# ---- over Airflow ------------------------------------------------------------------------------------------------


def _dag_id(name: str) -> str:
    from airfreight.rendering import check_name

    check_name(name)
    return f"serve_{name}"


def _refuse_asleep(api: AirflowApi, dag_id: str, name: str) -> None:
    dag = api.dag(dag_id)
    if dag is None:
        raise RequestError(
            f"Airflow has no DAG {dag_id}: give {name} hours or idle_after in the catalog; nothing else stops it."
        )
    if dag.get("is_paused"):
        raise RequestError(f"{dag_id} is paused, so its runs wait: unpause it in Airflow, then ask again.")


def _asked_just_now(runs: list[dict[str, Any]]) -> str | None:
    """Return the newest run if somebody woke the model within a minute; another note would say the same."""
    newest = runs[0] if runs else {}
    asked = newest.get("run_after") or newest.get("queued_at")
    if not asked or not str(newest["dag_run_id"]).startswith("wake__"):
        return None
    age = datetime.now(UTC) - datetime.fromisoformat(asked)
    return str(newest["dag_run_id"]) if newest["state"] in UNDER_WAY and age.total_seconds() < 60 else None


def _wake_id(runs: list[dict[str, Any]]) -> str:
    """Return the id for a wake: the same for all who saw the same runs, and new once a run came or ended."""
    seen = "|".join(f"{run['dag_run_id']} {run['state'] in UNDER_WAY}" for run in runs[:5])
    return f"wake__{hashlib.sha256(seen.encode()).hexdigest()[:12]}"


def _trigger_once(api: AirflowApi, dag_id: str, run_id: str, conf: dict[str, str]) -> str:
    try:
        return api.trigger(dag_id, conf, run_id=run_id)
    except RequestError as error:
        if not error.message.startswith("There is a run with this id already"):
            raise
        return run_id


def _eta(api: AirflowApi, dag_id: str, runs: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Return what earlier runs say: that one is open since, or how long a cold start takes."""
    for run in runs:
        opened = api.result(dag_id, str(run["dag_run_id"]), OPEN_TASK)
        if not isinstance(opened, dict) or opened.get("action") != "open":
            continue
        if run["state"] in UNDER_WAY:
            ready = api.result(dag_id, str(run["dag_run_id"]), "ping") is not None
            return {"open": True, "answers": ready, "eta": opened.get("eta") or "", "window": opened.get("window")}
        if (seconds := opened.get("expected_s")) is not None:
            from datetime import timedelta

            from airfreight.windows import text_of

            eta = text_of(datetime.now(UTC) + timedelta(seconds=float(seconds)))
            return {"open": False, "answers": False, "eta": eta, "expected_s": seconds}
    return {"open": False, "answers": False, "eta": ""}


def _eta_words(eta: dict[str, Any]) -> str:
    if eta["answers"]:
        return f"window {eta['window']} is open, and the model answers."
    when = f"by {eta['eta']}" if eta["eta"] else "soon; no cold start of it is recorded yet"
    return f"{'it is starting, and' if eta['open'] else 'it'} will probably answer {when}."


def _stop_over_airflow(name: str, now: bool, result: ResultOption) -> None:
    from airfreight.airflow_api import AirflowApi

    dag_id = _dag_id(name)
    with AirflowApi.from_environment() as api:
        _refuse_asleep(api, dag_id, name)
        run_id = api.trigger(dag_id, {"action": "stop_now" if now else "stop"})
    typer.echo(f"{dag_id} {run_id}: {name} is being stopped{'' if now else ' as soon as nothing runs'}.")
    if result is not None:
        write_result(result, {"dag_id": dag_id, "run_id": run_id})


# ---- at the cluster ----------------------------------------------------------------------------------------------


def _stop_here(name: str, namespace: str, last_look: str, result: ResultOption) -> None:
    from airfreight.cluster import Cluster
    from airfreight.commands.serve import set_power
    from airfreight.last_look import Ask, Eye
    from airfreight.rendering import check_name, check_namespace
    from airfreight.windows import text_of

    if not last_look:
        set_power(name, namespace, True, result)
        return
    check_name(name)
    check_namespace(namespace)
    cluster = Cluster.connect()
    busy = Eye(cluster, namespace, name).why_not(Ask.parse(last_look))
    changed, stopped = False, ""
    if busy:
        typer.echo(f"{name} in {namespace} is not stopped: {busy}.")
    else:
        stopped = text_of(datetime.now(UTC))
        changed = cluster.set_stopped(namespace, name, True).changed
        typer.echo(f"{name} in {namespace} is stopped.")
    write_result(
        result,
        {"name": name, "namespace": namespace, "stopped": not busy, "changed": changed, "busy": busy, "stop": stopped},
    )


# ---- records -----------------------------------------------------------------------------------------------------


def _records(store: str, namespace: str, models: list[str] | None) -> list[Record]:
    from airfreight.windows_store import open_log, recorded_models

    names = models or recorded_models(store, namespace)
    if not names:
        raise RequestError(f"There is no record of a window in {store} for namespace {namespace}; look at --store.")
    return [record for name in names for record in open_log(store, namespace, name).records()]


def _table(months: list[Month]) -> list[str]:
    rows = [("model", "month", "windows", "paid h", "serving h", "saved h")]
    rows += [
        (one.name, one.month, str(one.windows), f"{one.paid:.1f}", f"{one.serving:.1f}", f"{one.saved:.1f}")
        for one in months
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(6)]
    return ["  ".join(_cell(row, column, width) for column, width in enumerate(widths)) for row in rows]


def _cell(row: tuple[str, ...], column: int, width: int) -> str:
    return row[column].ljust(width) if column < 2 else row[column].rjust(width)
