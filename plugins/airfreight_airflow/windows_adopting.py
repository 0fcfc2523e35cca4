"""What `adopt_models` does in the worker: find models that run and whose window nobody keeps.

Somebody started such a model by hand, a GitOps tool did, or the run that kept its window was deleted or failed. Nobody
would stop it before its next window ends. Nothing is stopped here: its DAG opens a window, which ends by idleness.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import get_current_context
from airflow.sdk.exceptions import AirflowRuntimeError

from airfreight.catalog import CATALOG, survey_file
from airfreight.errors import AirfreightError, RequestError, TemporaryError
from airfreight.fights import fight_over
from airfreight.observation import is_stopped
from airfreight.windows import moment
from airfreight_airflow import failures
from airfreight_airflow.windows_keeper import Keeper
from airfreight_airflow.windows_runs import ADOPTED, Served, failed_tasks

LOOK_TASK = "look"
SETTLING = timedelta(minutes=10)
"""A model that was told to stop so short a time ago is left alone: who starts it now may be about to say so."""
_UNDER_WAY = ["queued", "running"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Verdict:
    """What is to be done about one model.

    Args:
        sentence: for a person.
        adopt: whether its DAG is to open a window.
    """

    name: str
    sentence: str
    adopt: bool = False


def models_to_adopt(catalog: Path = CATALOG) -> list[dict[str, Any]]:
    """The `look` task: which windows to open.

    Returns:
        For each, what `TriggerDagRunOperator` takes: `trigger_dag_id` and `trigger_run_id`.
    """
    context, now = get_current_context(), datetime.now(tz=UTC)
    failed, found = [], []
    for served in [Served.of(model) for model in survey_file(catalog).models if model.has_windows]:
        try:
            verdict = _judge(context, served, now)
        except TemporaryError as error:  # all of them are in one cluster and one store
            failures.end_task(context, error)
        except AirfreightError as error:
            failed.append(f"{served.name}: {error.message}")
            continue
        log.info("%s: %s", verdict.name, verdict.sentence)
        if verdict.adopt:
            found.append({"trigger_dag_id": served.dag_id, "trigger_run_id": f"{ADOPTED}{now:%Y%m%dT%H%M%SZ}"})
    context["ti"].xcom_push(key="failed", value=failed)
    return found


def say_what_failed() -> None:
    """The last task: fail when a task did, or a model could not be looked at."""
    context = get_current_context()
    ti: Any = context["ti"]
    failed = list(ti.xcom_pull(task_ids=LOOK_TASK, key="failed") or [])
    failed += [f"{name} failed; look at its log." for name in failed_tasks(context)]
    if failed:
        failures.end_task(context, RequestError(" ".join(failed)))


def _judge(context: Any, served: Served, now: datetime) -> Verdict:
    """Say whether a model is to be adopted.

    Raises:
        RequestError: the connection to the cluster or the store is missing, or may not read.
        IntegrityError: a record of its windows cannot be read.
        TemporaryError: the cluster or the store does not answer.
    """
    ti = context["ti"]
    # First what costs least. A run of its own is at it already, be it one that waits for an opening, or to stop it.
    if ti.get_dr_count(dag_id=served.dag_id, states=_UNDER_WAY):
        return Verdict(served.name, f"a run of {served.dag_id} is under way; nothing to do.")
    if (why_not := _why_nothing_starts(ti, served.dag_id)) is not None:
        return Verdict(served.name, why_not)
    keeper = Keeper(served, context)
    service = keeper.observe().inference_service
    if service is None or is_stopped(service):
        return Verdict(served.name, "it is stopped; nothing to do." if service else "it is not delivered yet.")
    if run := keeper.trying():
        return Verdict(served.name, f"{run} is delivering to it; nothing to do.")
    last = keeper.log.last("")
    if last is not None and last.stop and now - moment(last.stop) < SETTLING:
        return Verdict(served.name, f"it was told to stop at {last.stop}; looking again next time.")
    who = fight_over(last, service) or "It runs, and nobody keeps a window of it."
    return Verdict(served.name, f"{who} Opening one, which ends when it is idle.", adopt=True)


def _why_nothing_starts(ti: Any, dag_id: str) -> str | None:
    """Why no run of a DAG would start now, or None."""
    try:
        paused = ti.get_dag(dag_id).is_paused
    except AirflowRuntimeError as error:
        return f"Airflow does not know {dag_id} yet ({error}); nothing is started."
    return f"{dag_id} is paused, so nothing of it runs: unpause it, or stop the model yourself." if paused else None
