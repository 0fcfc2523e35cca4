"""`airfreight wake | stop | report`, for people, and `stop` and `ping` as the pods of a window run them.

airfreight wake pong                         over Airflow: open a window now; says when the model will answer
airfreight stop pong [--now]                 over Airflow: stop it when nothing runs, or at once
airfreight stop --name pong --namespace models [--last-look JSON]      in a pod, or with a kubeconfig
airfreight report --store s3://llm-models/   sums of the recorded windows
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from airfreight.commands.common import ResultOption, write_result
from airfreight.errors import RequestError

if TYPE_CHECKING:
    from airfreight.window_sums import Month
    from airfreight.windows import Record


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
    from airfreight import waking
    from airfreight.airflow_api import AirflowApi

    with AirflowApi.from_environment() as api:
        woken = waking.wake(api, name)
    typer.echo(woken.sentence)
    if result is not None:
        write_result(result, woken.result())


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
    from airfreight.retry import Patience
    from airfreight.validation import check_answer
    from airfreight.windows import text_of

    # A quarter of a minute: the model is ready, and its Service refuses for two seconds at most.
    patience = Patience(attempts=6, base=0.5, longest=8.0, on_retry=lambda error: typer.echo(str(error)))
    with ChatServer(url) as server:
        answer = patience.call(lambda: server.chat(served_name, question))
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

    from airfreight.window_sums import check_month, sum_up

    check_month(month)
    found = sum_up(_records(store, namespace, model), datetime.now(UTC))
    months = [one for one in found if month in ("", one.month)]
    for line in _table(months) if months else [_none_of(month, found)]:
        typer.echo(line)
    if result is not None:
        write_result(result, {"months": [asdict(one) for one in months]})


# ---- over Airflow ------------------------------------------------------------------------------------------------


def _stop_over_airflow(name: str, now: bool, result: ResultOption) -> None:
    from airfreight.airflow_api import AirflowApi
    from airfreight.waking import ask_to_stop

    with AirflowApi.from_environment() as api:
        dag_id, run_id = ask_to_stop(api, name, now=now)
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
    from airfreight.serving import nearest
    from airfreight.windows_store import open_log, recorded_models

    known = recorded_models(store, namespace)
    for name in models or []:
        if known and name not in known:
            raise RequestError(
                f'--model is "{name}", of which no window is recorded in {store} for namespace {namespace}'
                f"{nearest(name, known)}"
            )
    names = dict.fromkeys(models or known) if known else {}
    records = [record for name in names for record in open_log(store, namespace, name).records()]
    if not records:
        raise RequestError(f"There is no record of a window in {store} for namespace {namespace}; look at --store.")
    return records


def _none_of(month: str, found: list[Month]) -> str:
    """Say that a month is none of the recorded ones."""
    recorded = sorted(one.month for one in found)
    return f"Nothing is recorded of {month}; the records go from {recorded[0]} to {recorded[-1]}."


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
