"""A small client of Airflow's REST API v2: trigger a run, follow it, sum it up.

    with AirflowApi.from_environment() as api:
        run_id = api.trigger("deliver_model", {"model": "acme/pong"})
        for change in api.follow("deliver_model", run_id):
            print(change.task_id, change.state, change.seconds)
        summary = api.run_summary("deliver_model", run_id)

Environment: AIRFREIGHT_AIRFLOW_URL (default http://localhost:8080), and either AIRFREIGHT_AIRFLOW_TOKEN or
AIRFREIGHT_AIRFLOW_USER with AIRFREIGHT_AIRFLOW_PASSWORD.

Source of the routes and bodies: airflow 3.3 `api_fastapi/core_api/openapi`, and `/auth/token` of its auth managers.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Self
from urllib.parse import quote

from airfreight.airflow_http import AirflowHttp, NotFoundError
from airfreight.airflow_runs import (
    RunFailedError,
    RunSummary,
    TaskRow,
    row_of,
    seconds_between,
    split,
    worked,
)
from airfreight.errors import RequestError, TemporaryError

__all__ = ["AirflowApi", "RunFailedError", "RunSummary", "TaskRow"]

DEFAULT_URL = "http://localhost:8080"
POLL_S = 1.0
PATIENCE_S = 60.0
"""How long, in seconds, `follow` bears an API server that does not answer."""

FINAL_STATES = frozenset({"success", "failed"})
FAILURE_KEY = "failure"
"""XCom key under which our operators leave the error of a failed try: exit_code, kind, message."""


class AirflowApi(AirflowHttp):
    """One Airflow, one login: DAGs, runs and results of tasks."""

    @classmethod
    def from_environment(cls) -> Self:
        """Make a client from AIRFREIGHT_AIRFLOW_*.

        Raises:
            RequestError: neither a token nor a user is set.
        """
        user, token = os.environ.get("AIRFREIGHT_AIRFLOW_USER", ""), os.environ.get("AIRFREIGHT_AIRFLOW_TOKEN", "")
        if not (user or token):
            raise RequestError(
                "No login for Airflow is set: set AIRFREIGHT_AIRFLOW_USER and AIRFREIGHT_AIRFLOW_PASSWORD, or "
                "AIRFREIGHT_AIRFLOW_TOKEN (and AIRFREIGHT_AIRFLOW_URL where it is not http://localhost:8080)."
            )
        return cls(
            os.environ.get("AIRFREIGHT_AIRFLOW_URL") or DEFAULT_URL,
            user=user,
            password=os.environ.get("AIRFREIGHT_AIRFLOW_PASSWORD", ""),
            token=token,
        )

    def params(self, dag_id: str) -> dict[str, dict[str, Any]]:
        """The DAG's params by name: `value`, `schema`, `description`."""
        details = self.get(f"/api/v2/dags/{quote(dag_id, safe='')}/details")
        params: dict[str, dict[str, Any]] = details.get("params") or {}
        return params

    def trigger(self, dag_id: str, conf: Mapping[str, Any], *, run_id: str | None = None) -> str:
        """Start a run now and return its id.

        Args:
            run_id: makes triggering idempotent; Airflow refuses the same id twice (409).
        Raises:
            RequestError: Airflow refuses the conf, the login or the DAG.
            TemporaryError: Airflow does not answer.
        """
        # `logical_date` must be in the body: the schema is strict, and null means "now".
        body: dict[str, Any] = {"logical_date": None, "conf": dict(conf)}
        if run_id:
            body["dag_run_id"] = run_id
        run = self.call("POST", f"/api/v2/dags/{quote(dag_id, safe='')}/dagRuns", body)
        return str(run["dag_run_id"])

    def follow(
        self,
        dag_id: str,
        run_id: str,
        *,
        poll_s: float = POLL_S,
        on_look: Callable[[list[TaskRow]], None] | None = None,
    ) -> Iterator[TaskRow]:
        """Yield each change of a task until the run is over.

        Args:
            on_look: called after every look with all tasks as they are; for a live line.
        Raises:
            TemporaryError: Airflow did not answer for a minute.
        """
        seen: dict[str, tuple[str | None, int]] = {}
        silent_since: float | None = None
        while True:
            try:
                # The run is read first: if it is over, its tasks are over too.
                state = self._run(dag_id, run_id)["state"]
                tasks = [row_of(row) for row in self._tasks(dag_id, run_id)]
            except TemporaryError:
                silent_since = silent_since or time.monotonic()
                if time.monotonic() - silent_since > PATIENCE_S:
                    raise
                time.sleep(poll_s)
                continue
            silent_since = None
            for task in tasks:
                if task.state is not None and seen.get(task.task_id) != (task.state, task.try_number):
                    seen[task.task_id] = (task.state, task.try_number)
                    yield task
            if on_look is not None:
                on_look(tasks)
            if state in FINAL_STATES:
                return
            time.sleep(poll_s)

    def run_summary(self, dag_id: str, run_id: str) -> RunSummary:
        """Read what the run did so far: durations, results, and the error of the task that failed."""
        run = self._run(dag_id, run_id)
        tasks = tuple(row_of(row) for row in self._tasks(dag_id, run_id))
        results = {
            task.task_id: self._result(dag_id, run_id, task.task_id) for task in tasks if task.state == "success"
        }
        found = {task_id: result for task_id, result in results.items() if isinstance(result, dict)}
        seconds = seconds_between(run.get("start_date") or run.get("queued_at"), run.get("end_date"))
        failed = next((task for task in tasks if task.state == "failed"), None)
        return RunSummary(
            dag_id=dag_id,
            run_id=run_id,
            state=str(run["state"]),
            seconds=seconds,
            airflow_seconds=round(seconds - worked(found), 1) if run["state"] == "success" else None,
            tasks=tasks,
            results=found,
            failure=self._failure(dag_id, run_id, failed) if failed else None,
        )

    def dag(self, dag_id: str) -> dict[str, Any] | None:
        """A DAG as Airflow lists it, with `is_paused`; None when there is none."""
        try:
            return self.get(f"/api/v2/dags/{quote(dag_id, safe='')}")
        except NotFoundError:
            return None

    def runs(self, dag_id: str, *, limit: int = 20) -> list[dict[str, Any]]:
        """The runs of a DAG, the newest first: `dag_run_id`, `state`, `start_date`, `conf` …"""
        return self._runs(dag_id, f"order_by=-run_after&limit={limit}")

    def running(self, dag_id: str) -> list[dict[str, Any]]:
        """The runs of a DAG that go on now, the oldest first; likewise, however many came and ended since."""
        return self._runs(dag_id, "state=running&order_by=run_after&limit=20")

    def result(self, dag_id: str, run_id: str, task_id: str) -> Any:
        """What a task of a run returned; None when it returned nothing, or not yet."""
        return self._result(dag_id, run_id, task_id)

    def _runs(self, dag_id: str, query: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.get(f"/api/v2/dags/{quote(dag_id, safe='')}/dagRuns?{query}")["dag_runs"]
        return rows

    def _run(self, dag_id: str, run_id: str) -> dict[str, Any]:
        return self.get(_run_path(dag_id, run_id))

    def _tasks(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.get(f"{_run_path(dag_id, run_id)}/taskInstances?limit=1000")["task_instances"]
        return sorted(rows, key=lambda row: (row.get("start_date") or "9999", str(row["task_id"])))

    def _result(self, dag_id: str, run_id: str, task_id: str) -> Any:
        return self._xcom(dag_id, run_id, task_id, "return_value")

    def _xcom(self, dag_id: str, run_id: str, task_id: str, key: str) -> Any:
        name, map_index = split(task_id)
        path = f"{_run_path(dag_id, run_id)}/taskInstances/{quote(name, safe='')}/xcomEntries/{key}"
        path += f"?map_index={map_index}" if map_index >= 0 else ""
        try:
            value = self.get(path)["value"]
        except NotFoundError:
            return None
        if isinstance(value, str):
            # The column holds what the worker serialised: JSON in a JSON string.
            try:
                return json.loads(value)
            except ValueError:
                return value
        return value

    def _failure(self, dag_id: str, run_id: str, task: TaskRow) -> dict[str, Any]:
        left = self._xcom(dag_id, run_id, task.task_id, FAILURE_KEY)
        if isinstance(left, dict) and "message" in left:
            return {"task_id": task.task_id, "message": str(left["message"]), "exit_code": left.get("exit_code")}
        return {"task_id": task.task_id, "message": self._last_error(dag_id, run_id, task), "exit_code": None}

    def _last_error(self, dag_id: str, run_id: str, task: TaskRow) -> str:
        """The last error in the log of the last try, for a task that ended without an error of ours."""
        name, map_index = split(task.task_id)
        path = f"{_run_path(dag_id, run_id)}/taskInstances/{quote(name, safe='')}/logs/{task.try_number}"
        try:
            lines = self.get(f"{path}?full_content=true&map_index={map_index}").get("content") or []
        except (NotFoundError, TemporaryError):
            lines = []
        for line in reversed(lines):
            if isinstance(line, dict) and line.get("level") in ("error", "critical"):
                details = line.get("error_detail") or []
                return str(details[-1].get("exc_value") if details else line.get("event"))
        return "its log names no error; it was probably stopped from outside"


def _run_path(dag_id: str, run_id: str) -> str:
    return f"/api/v2/dags/{quote(dag_id, safe='')}/dagRuns/{quote(run_id, safe='')}"
