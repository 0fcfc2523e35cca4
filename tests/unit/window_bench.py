"""What tests of the tasks of `serve_<name>` call: an Airflow that is asked, and each task as its run executes it.

Their fixtures are those of tests/unit/window_fixtures.py.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import DAG
from airflow.sdk.exceptions import TaskDeferred

from airfreight.hours import Hours
from airfreight.windows import Current, Record, WindowLog, text_of
from airfreight_airflow import windows_operators
from airfreight_airflow.windows_events import Kind, WindowEvent
from airfreight_airflow.windows_opening import OpenWindowSensor
from airfreight_airflow.windows_operators import ResumeOperator, StopModelOperator, record_window
from airfreight_airflow.windows_runs import Served
from airfreight_airflow.windows_sensors import WatchSensor
from airfreight_airflow.windows_triggers import WatchTrigger

MINUTE = timedelta(minutes=1)


def hours_now(opened: float = -60, closes: float = 60) -> tuple[Hours, ...]:
    """Hours that opened and close so many minutes from now."""
    now = datetime.now(tz=UTC)
    times = [f"{now + minutes * MINUTE:%H:%M}" for minutes in (opened, closes)]
    return (Hours(open=times[0], close=times[1], timezone="UTC"),)


class Airflow:
    """What tasks of one DAG run ask of Airflow; `alive` are the runs that still go on, `ended` those that do not."""

    def __init__(self) -> None:
        self.alive = {"r1", "r2", "r3"}
        self.ended: set[str] = set()
        self.xcoms: dict[tuple[str, str], Any] = {}
        self.states: dict[str, str] = {}
        self.tries = 1
        self.run_id = "r1"  # of whom a task is, where nothing else is said
        self.fired: datetime | None = None  # the moment a scheduled run is for; None: now

    def context(self, task: str, run_id: str = "", run_type: str = "manual", **params: Any) -> Any:
        def pull(task_ids: str, key: str = "return_value") -> Any:
            return self.xcoms.get((task_ids, key))

        def count(dag_id: str, run_ids: list[str], states: list[str]) -> int:
            return int(run_ids[0] in (self.alive if "running" in states else self.ended))

        ti = SimpleNamespace(
            xcom_push=lambda key, value: self.xcoms.update({(task, key): value}),
            xcom_pull=pull,
            get_dr_count=count,
            get_task_states=lambda dag_id, run_ids: {run_ids[0]: self.states},
            try_number=self.tries,
        )
        run = SimpleNamespace(run_type=run_type, conf={}, run_after=self.fired or datetime.now(tz=UTC))
        dag = SimpleNamespace(dag_id="serve_pong")
        return {"ti": ti, "run_id": run_id or self.run_id, "params": params, "dag": dag, "dag_run": run}


def make(kind: Callable[..., Any], served: Served, **more: Any) -> Any:
    with DAG(served.dag_id, schedule=None):
        return kind(task_id="task", served=served, **more)


def open_window(airflow: Airflow, served: Served, run_id: str = "", run_type: str = "manual", **params: Any) -> Any:
    return make(OpenWindowSensor, served).execute(airflow.context("open_window", run_id, run_type, **params))


def deferred(call: Callable[[], Any]) -> Any:
    with pytest.raises(TaskDeferred) as caught:
        call()
    return caught.value


def opened(airflow: Airflow, log: WindowLog, action: str = "open", **kept: Any) -> None:
    """As after `open_window` of run r1."""
    requested = text_of(datetime.now(tz=UTC) - MINUTE)
    airflow.xcoms["open_window", "return_value"] = {"action": action, "window": "w", "requested": requested}
    if action == "open":
        log.take(Current("w", "r1", **kept), lambda run: True)
        log.begin(Record("w", "pong", "models", "wake", "r1", requested))


def watch(airflow: Airflow, served: Served) -> WatchTrigger:
    found = deferred(lambda: make(WatchSensor, served).execute(airflow.context("wait_until_idle_or_closing")))
    trigger: WatchTrigger = found.trigger
    return trigger


def saw(airflow: Airflow, served: Served, kind: Kind, **more: Any) -> Any:
    event = WindowEvent(kind, 0.0, **more)
    return make(WatchSensor, served).seen(airflow.context("wait_until_idle_or_closing"), vars(event))


def resume_task(served: Served) -> Any:
    return make(ResumeOperator, served)


def stop_task(served: Served) -> Any:
    return make(StopModelOperator, served)


def record(airflow: Airflow, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(windows_operators, "get_current_context", lambda: airflow.context("record"))
    return record_window(Served("pong", idle_after=MINUTE))
