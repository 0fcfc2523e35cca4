"""The DAGs `serve_<name>`: one for each model of the catalog that has hours or `idle_after`. One run is one window.

An entry of the catalog that is wrong takes down only itself. Its DAG stays, without a schedule: it shows what is wrong
with file and line, opens nothing, and lets a window that is open come to its end.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, AssetOrTimeSchedule, Param, TriggerRule, task

from airfreight.catalog import Broken, survey_file
from airfreight.durations import words
from airfreight.waking import OPEN_TASK, PING_TASK, WATCH_TASK
from airfreight.warmup import READY_TIMEOUT
from airfreight_airflow.macros import RequestMacros
from airfreight_airflow.operators import VALIDATOR
from airfreight_airflow.task_defaults import TASK_DEFAULTS
from airfreight_airflow.windows_assets import model_asset
from airfreight_airflow.windows_opening import OpenWindowSensor
from airfreight_airflow.windows_operators import (
    DOWN_TASK,
    READY_TASK,
    STOP_TASK,
    PingOperator,
    ResumeOperator,
    StopModelOperator,
    record_window,
)
from airfreight_airflow.windows_runs import OPEN, RESUME_TASK, STOP, STOP_NOW, Served
from airfreight_airflow.windows_sensors import ServingSensor, StoppedSensor, WatchSensor
from airfreight_airflow.windows_timetable import OpeningsTimetable

LONG = timedelta(days=370)
"""A window has no end but its own: a woken model may be asked for a year."""
DOWN = timedelta(minutes=15)
STUBBORN = 6
"""Retries of the pods that start and stop a model: a quarter of an hour, as long as the API server may be replaced for.
Without the one a window is lost; without the other the model stays up, and nobody keeps it any more.
"""


def window_dags(catalog: Path, docs: str) -> dict[str, DAG]:
    """Return the DAGs of a catalog by their ids. Reads the file, and nothing else; never raises for what is in it.

    Args:
        docs: the page for the person on call, in Markdown.
    """
    found = survey_file(catalog)
    dags = [window_dag(Served.of(model), docs) for model in found.models if model.has_windows]
    taken = {dag.dag_id for dag in dags} | {f"serve_{model.name}" for model in found.models}
    dags += [_broken_dag(one, taken, docs) for one in found.broken]
    return {dag.dag_id: dag for dag in dags}


def window_dag(served: Served, docs: str) -> DAG:
    """Return the DAG of one model."""
    schedule: Any = None if served.broken else [model_asset(served.name)]  # what a delivery leaves running is watched
    if served.hours:
        openings: Any = OpeningsTimetable(
            served.hours, served.longest
        )  # a timetable of a plugin is one of Airflow's core
        schedule = AssetOrTimeSchedule(timetable=openings, assets=schedule)
    with DAG(
        dag_id=served.dag_id,
        dag_display_name=f"{'Broken: ' if served.broken else ''}Serve {served.name}",
        description=served.broken or _terms(served),
        doc_md=f"{_headline(served)}\n{docs}",
        schedule=schedule,
        catchup=False,
        # By hours it starts and stops a model, so somebody says when that begins. Else only people and deliveries do.
        is_paused_upon_creation=bool(served.hours),
        max_active_runs=16,  # one keeps the window, the others leave it a note and end
        dagrun_timeout=LONG,
        tags=["airfreight", "serve", "windows", *(["broken"] if served.broken else [])],
        params=_params(),
        user_defined_macros={"airfreight": RequestMacros},
        default_args=TASK_DEFAULTS,
    ) as dag:
        _tasks(served)
    return dag


def _tasks(served: Served) -> None:
    opened = OpenWindowSensor(task_id=OPEN_TASK, served=served)
    left: Any = opened.output
    resume = ResumeOperator(task_id=RESUME_TASK, served=served, retries=STUBBORN)
    ready = ServingSensor(task_id=READY_TASK, served=served, ready_timeout=READY_TIMEOUT)
    ping = PingOperator(
        task_id=PING_TASK,
        served=served,
        role=VALIDATOR,
        arguments=["ping", "--url", left["url"], "--served-name", left["served_name"]],
    )
    # Whatever became of the start: a window that was opened is ended.
    watch = WatchSensor(task_id=WATCH_TASK, served=served, trigger_rule=TriggerRule.ALL_DONE, execution_timeout=LONG)
    stop = StopModelOperator(task_id=STOP_TASK, served=served, retries=STUBBORN)
    down = StoppedSensor(task_id=DOWN_TASK, served=served, down_timeout=DOWN)
    record = task(task_id="record", multiple_outputs=False, trigger_rule=TriggerRule.ALL_DONE)(record_window)(served)
    opened >> resume >> ready >> ping >> watch >> stop >> down >> record


def _broken_dag(broken: Broken, taken: set[str], docs: str) -> DAG:
    """A DAG that shows what is wrong with an entry; under its model's own id unless a model that is right has that."""
    sentence = " ".join(str(problem) for problem in broken.problems)
    served = Served(broken.name, broken=sentence)
    if not broken.name or served.dag_id in taken:
        served = Served(f"catalog-line-{broken.line}", broken=sentence)
    taken.add(served.dag_id)
    return window_dag(served, docs)


def _params() -> dict[str, Param]:
    return {
        "action": Param(
            OPEN,
            enum=[OPEN, STOP, STOP_NOW],
            type="string",
            title="Action",
            description="open: start the model now; it is stopped when it is idle, or its hours close. stop: stop it "
            "as soon as nothing runs. stop_now: stop it at once.",
            values_display={"open": "Open a window (wake)", "stop": "Stop when nothing runs", "stop_now": "Stop now"},
        )
    }


def _terms(served: Served) -> str:
    parts = [OpeningsTimetable(served.hours, served.longest).summary] if served.hours else []
    parts += [f"stopped when idle for {words(served.idle_after.total_seconds())}"] if served.idle_after else []
    return "; ".join(parts)


def _headline(served: Served) -> str:
    if served.broken:
        return f"**This entry of the catalog is wrong, and opens no window:** {served.broken}\n"
    return "\n".join(f"- {line}" for line in _lines(served)) + "\n"


def _lines(served: Served) -> Iterator[str]:
    yield _terms(served)
    if served.hours:
        yield f"warm-up: {served.warmup}; the schedule fires {words(served.longest.total_seconds())} before an opening"
