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
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx2

from airfreight.errors import AirfreightError, GateError, IntegrityError, RequestError, TemporaryError

DEFAULT_URL = "http://localhost:8080"
POLL_S = 1.0
PATIENCE_S = 60.0
"""How long, in seconds, `follow` bears an API server that does not answer."""

FINAL_STATES = frozenset({"success", "failed"})
FAILURE_KEY = "failure"
"""XCom key under which our operators leave the error of a failed try: exit_code, kind, message."""

# Model start and bytes moved are the run's work; what remains of its wall time is Airflow's own share. One line per
# stage: its tasks run side by side, so the slowest counts. Each leaves its seconds as result `seconds`.
_WORK = (
    ("download",),
    ("upload_slices", "build_slices", "upload_from_volume", "build_from_volume", "build_with_buildah"),
    ("upload_to_s3", "build_modelcar"),
    ("wait_until_ready",),
)
_KINDS: dict[int, type[AirfreightError]] = {
    kind.exit_code: kind for kind in (RequestError, IntegrityError, GateError, TemporaryError)
}


class RunFailedError(AirfreightError):
    """A run failed and left no exit code of ours. Exit code 1."""


@dataclass(frozen=True)
class TaskChange:
    """A task went from one state to another.

    Args:
        task_id: of the task; of one of several pods with its number, `upload_slices[2]`.
        state: its new state in Airflow's words; None: not scheduled yet.
        seconds: time since its try began, or its whole duration once it is over; None before it began.
        try_number: 1 is the first.
    """

    task_id: str
    state: str | None
    seconds: float | None
    try_number: int


@dataclass(frozen=True)
class TaskRow:
    """One task of a run that is over or under way, named as in `TaskChange`; `seconds` covers its last try."""

    task_id: str
    state: str | None
    seconds: float | None
    try_number: int


@dataclass(frozen=True)
class RunSummary:
    """What a run did.

    Args:
        state: `success`, `failed`, `running` or `queued`.
        seconds: wall time from its start to its end, or to now.
        airflow_seconds: wall time less the seconds in which bytes moved and the model server started; None before the
        end.
        tasks: in the order in which they began.
        results: by task id, the JSON result of each task that has one.
        failure: of the task that failed, or None: task_id, message, exit_code (None if the task left none).
    """

    dag_id: str
    run_id: str
    state: str
    seconds: float
    airflow_seconds: float | None
    tasks: tuple[TaskRow, ...]
    results: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    failure: Mapping[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """As a plain JSON object."""
        return asdict(self)

    def error(self) -> AirfreightError | None:
        """The error that the failed run stands for; None unless it failed."""
        if self.state != "failed":
            return None
        failure = self.failure or {
            "task_id": "the run",
            "message": "it was ended without an error of a task",
            "exit_code": None,
        }
        message = f"{self.dag_id} {self.run_id}: {failure['task_id']} failed: {failure['message']}"
        return _KINDS.get(failure["exit_code"], RunFailedError)(message)


class AirflowApi:
    """One Airflow, one login.

    Args:
        url: of the API server, without `/api/v2`.
        user, password: for `POST /auth/token`; not needed with `token`.
        token: a bearer token, for sites whose users do not log in with a password.
        transport: for tests.
    """

    def __init__(
        self,
        url: str,
        *,
        user: str = "",
        password: str = "",
        token: str = "",
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        self._url = url.rstrip("/")
        self._user = user
        self._password = password
        self._token = token
        # Airflow stands on this machine or in the site's own network: no proxy, no .netrc.
        self._http = httpx2.Client(base_url=self._url, timeout=30.0, trust_env=False, transport=transport)

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

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def params(self, dag_id: str) -> dict[str, dict[str, Any]]:
        """The DAG's params by name: `value`, `schema`, `description`."""
        details = self._get(f"/api/v2/dags/{quote(dag_id, safe='')}/details")
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
        run = self._call("POST", f"/api/v2/dags/{quote(dag_id, safe='')}/dagRuns", body)
        return str(run["dag_run_id"])

    def follow(
        self,
        dag_id: str,
        run_id: str,
        *,
        poll_s: float = POLL_S,
        on_look: Callable[[list[TaskChange]], None] | None = None,
    ) -> Iterator[TaskChange]:
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
                tasks = [_change(row) for row in self._tasks(dag_id, run_id)]
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
        tasks = tuple(TaskRow(**asdict(_change(row))) for row in self._tasks(dag_id, run_id))
        results = {
            task.task_id: self._result(dag_id, run_id, task.task_id) for task in tasks if task.state == "success"
        }
        found = {task_id: result for task_id, result in results.items() if isinstance(result, dict)}
        seconds = _seconds_between(run.get("start_date") or run.get("queued_at"), run.get("end_date"))
        work = sum(max((_worked(found, task_id) for task_id in stage), default=0.0) for stage in _WORK)
        failed = next((task for task in tasks if task.state == "failed"), None)
        return RunSummary(
            dag_id=dag_id,
            run_id=run_id,
            state=str(run["state"]),
            seconds=seconds,
            airflow_seconds=round(seconds - work, 1) if run["state"] == "success" else None,
            tasks=tasks,
            results=found,
            failure=self._failure(dag_id, run_id, failed) if failed else None,
        )

    def dag(self, dag_id: str) -> dict[str, Any] | None:
        """A DAG as Airflow lists it, with `is_paused`; None when there is none."""
        try:
            return self._get(f"/api/v2/dags/{quote(dag_id, safe='')}")
        except _NotFoundError:
            return None

    def runs(self, dag_id: str, *, limit: int = 20) -> list[dict[str, Any]]:
        """The runs of a DAG, the newest first: `dag_run_id`, `state`, `start_date`, `conf` …"""
        path = f"/api/v2/dags/{quote(dag_id, safe='')}/dagRuns?order_by=-run_after&limit={limit}"
        rows: list[dict[str, Any]] = self._get(path)["dag_runs"]
        return rows

    def result(self, dag_id: str, run_id: str, task_id: str) -> Any:
        """What a task of a run returned; None when it returned nothing, or not yet."""
        return self._result(dag_id, run_id, task_id)

    def _run(self, dag_id: str, run_id: str) -> dict[str, Any]:
        return self._get(_run_path(dag_id, run_id))

    def _tasks(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self._get(f"{_run_path(dag_id, run_id)}/taskInstances?limit=1000")[
            "task_instances"
        ]
        return sorted(rows, key=lambda row: (row.get("start_date") or "9999", str(row["task_id"])))

    def _result(self, dag_id: str, run_id: str, task_id: str) -> Any:
        return self._xcom(dag_id, run_id, task_id, "return_value")

    def _xcom(self, dag_id: str, run_id: str, task_id: str, key: str) -> Any:
        name, map_index = _split(task_id)
        path = f"{_run_path(dag_id, run_id)}/taskInstances/{quote(name, safe='')}/xcomEntries/{key}"
        path += f"?map_index={map_index}" if map_index >= 0 else ""
        try:
            value = self._get(path)["value"]
        except _NotFoundError:
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
        name, map_index = _split(task.task_id)
        path = f"{_run_path(dag_id, run_id)}/taskInstances/{quote(name, safe='')}/logs/{task.try_number}"
        try:
            lines = self._get(f"{path}?full_content=true&map_index={map_index}").get("content") or []
        except (_NotFoundError, TemporaryError):
            lines = []
        for line in reversed(lines):
            if isinstance(line, dict) and line.get("level") in ("error", "critical"):
                details = line.get("error_detail") or []
                return str(details[-1].get("exc_value") if details else line.get("event"))
        return "its log names no error; it was probably stopped from outside"

    def _get(self, path: str) -> dict[str, Any]:
        return self._call("GET", path)

    def _call(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        if not self._token:
            self._log_in()
        response = self._send(method, path, body)
        if response.status_code == 401 and self._user:
            self._log_in()  # a token lives a day; a delivery may take longer
            response = self._send(method, path, body)
        if response.status_code >= 400:
            raise self._refusal(method, path, response)
        value: dict[str, Any] = response.json()
        return value

    def _log_in(self) -> None:
        response = self._http_post("/auth/token", {"username": self._user, "password": self._password})
        if response.status_code in (400, 401, 403, 422):
            raise RequestError(
                f"Airflow at {self._url} does not accept the login of {self._user!r}: look at AIRFREIGHT_AIRFLOW_USER "
                "and AIRFREIGHT_AIRFLOW_PASSWORD."
            )
        if response.status_code >= 400:
            raise self._refusal("POST", "/auth/token", response)
        self._token = str(response.json()["access_token"])

    def _http_post(self, path: str, body: Any) -> httpx2.Response:
        with _answering(self._url):
            return self._http.post(path, json=body)

    def _send(self, method: str, path: str, body: Any) -> httpx2.Response:
        with _answering(self._url):
            return self._http.request(method, path, json=body, headers={"Authorization": f"Bearer {self._token}"})

    def _refusal(self, method: str, path: str, response: httpx2.Response) -> AirfreightError:
        said = _detail(response)
        status = response.status_code
        if status == 404:
            return _NotFoundError(f"Airflow at {self._url} has no {path.partition('?')[0]} ({said}): look at the name.")
        if status == 401:
            return RequestError(
                f"Airflow at {self._url} does not accept the token: get a new AIRFREIGHT_AIRFLOW_TOKEN."
            )
        if status == 403:
            return RequestError(
                f"Airflow at {self._url} forbids {method} {path} ({said}): ask for a role that may do it."
            )
        if status == 409 and path.endswith("/dagRuns"):
            return RequestError("There is a run with this id already: choose another id, or follow that run.")
        if status < 500 and status != 429:
            return RequestError(f"Airflow refuses the request: {said}")
        return TemporaryError(f"Airflow at {self._url} answered {status} ({said}): try again.")


class _NotFoundError(RequestError):
    """404; some reads expect it."""


@contextmanager
def _answering(url: str) -> Iterator[None]:
    try:
        yield
    except httpx2.TransportError as error:
        raise TemporaryError(
            f"Airflow at {url} does not answer ({error or type(error).__name__}): start it, or set "
            "AIRFREIGHT_AIRFLOW_URL."
        ) from error


def _run_path(dag_id: str, run_id: str) -> str:
    return f"/api/v2/dags/{quote(dag_id, safe='')}/dagRuns/{quote(run_id, safe='')}"


def _change(row: Mapping[str, Any]) -> TaskChange:
    seconds = row.get("duration")
    if seconds is None and row.get("start_date"):
        seconds = _seconds_between(row["start_date"], row.get("end_date"))
    map_index = int(row.get("map_index", -1))
    return TaskChange(
        task_id=f"{row['task_id']}[{map_index}]" if map_index >= 0 else str(row["task_id"]),
        state=row.get("state"),
        seconds=None if seconds is None else round(float(seconds), 1),
        try_number=int(row.get("try_number") or 0),
    )


def _split(task_id: str) -> tuple[str, int]:
    """The name and number of a task as `TaskChange` has it; the number of one that is not mapped is -1."""
    name, bracket, number = task_id.removesuffix("]").partition("[")
    return name, int(number) if bracket else -1


def _worked(results: Mapping[str, Mapping[str, Any]], task_id: str) -> float:
    """Seconds of work of a task; of one in several pods those of the slowest."""
    return max(
        (float(found.get("seconds") or 0) for key, found in results.items() if _split(key)[0] == task_id), default=0
    )


def _seconds_between(start: str | None, end: str | None) -> float:
    if not start:
        return 0.0
    until = datetime.fromisoformat(end) if end else datetime.now(tz=UTC)
    return round((until - datetime.fromisoformat(start)).total_seconds(), 1)


def _detail(response: httpx2.Response) -> str:
    """What the server says, on one line: FastAPI's `detail` is a string, a list of validation errors, or an object."""
    try:
        detail = response.json().get("detail")
    except (ValueError, AttributeError):
        detail = None
    if isinstance(detail, list):
        detail = "; ".join(f"{'.'.join(map(str, entry.get('loc', [])))}: {entry.get('msg')}" for entry in detail)
    if isinstance(detail, dict):
        detail = detail.get("reason") or detail.get("message")
    return " ".join(str(detail or response.text or response.reason_phrase).split())[:500]
