"""Opening a window now, over Airflow's REST API: which run does it, and when the model will probably answer; and asking
for its end.

    with AirflowApi.from_environment() as api:
        woken = wake(api, "pong")
        print(woken.sentence)
        dag_id, run_id = ask_to_stop(api, "pong")

The command `airfreight wake` and the endpoint `POST /airfreight/models/{name}/wake` are both this.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airfreight.airflow_http import NotFoundError, RefusedError
from airfreight.errors import TemporaryError
from airfreight.rendering import check_name
from airfreight.windows import moment, text_of

if TYPE_CHECKING:
    from airfreight.airflow_api import AirflowApi

OPEN_TASK, PING_TASK, WATCH_TASK, RECORD_TASK = "open_window", "ping", "wait_until_idle_or_closing", "record"
UNDER_WAY = ("queued", "running")
JUST_NOW = timedelta(seconds=60)
"""Another note for the run that keeps the window would say the same so soon after one."""
WAITING = timedelta(hours=1)
"""So long a stop that waits is the answer to another. What overrules an older one may be in no list of runs: the hours,
which the run that keeps the window notes itself, as after a night in which the DAG was paused.
"""

_UNKNOWN: dict[str, Any] = {"open": False, "answers": False, "eta": ""}


@dataclass(frozen=True)
class Woken:
    """A model that was woken.

    Args:
        eta: open (whether a window was open already), answers (whether the model answers), eta (RFC 3339; "" when no
            cold start is recorded); with them `window`, its id, or `expected_s`, the seconds of a cold start.
    """

    dag_id: str
    run_id: str
    eta: dict[str, Any]

    def result(self) -> dict[str, Any]:
        """As the JSON object that a program reads."""
        return {"dag_id": self.dag_id, "run_id": self.run_id, **self.eta}

    @property
    def sentence(self) -> str:
        """For a person."""
        return f"{self.dag_id} {self.run_id}: {_eta_words(self.eta)}"


def wake(api: AirflowApi, name: str) -> Woken:
    """Open a window of a model now, unless one is open or somebody asked a moment ago.

    Args:
        name: of the model in the catalog.
    Raises:
        NotFoundError: the model has no DAG.
        RefusedError: its DAG is paused (409), or Airflow refuses; `status` says how.
        RequestError: the name is none, or the login is refused.
        TemporaryError: Airflow does not answer, or not now.
    """
    dag_id = awake_dag(api, name)
    runs = api.runs(dag_id)
    # A run that keeps a window takes a note of this one, so that the model is not stopped a moment later. All who wake
    # it at the same time give their run the same id, and Airflow takes one.
    run_id = _asked_just_now(runs) or _trigger_once(api, dag_id, _id_of("wake", runs), {"action": "open"})
    try:
        # The run that keeps the window may have begun before all of the newest: a gateway that wakes on demand starts
        # one each minute.
        keeping = api.running(dag_id)
        known = {run["dag_run_id"] for run in keeping}
        eta = _eta(api, dag_id, [*keeping, *(run for run in runs if run["dag_run_id"] not in known)])
    except (RefusedError, TemporaryError):  # it is woken all the same; a role may trigger, and read no results
        eta = _UNKNOWN
    return Woken(dag_id, run_id, eta)


def ask_to_stop(api: AirflowApi, name: str, *, now: bool = False) -> tuple[str, str]:
    """Start a run that stops a model, unless one that was asked for the same within an hour waits for it already.

    A stop since which a window was opened, or the model was woken, is none of those: that overrules it, and not the new
    one.

    Args:
        now: at once, and not as soon as nothing runs.
    Returns:
        The DAG and the run.
    Raises:
        NotFoundError, RefusedError, RequestError, TemporaryError: as `wake`.
    """
    dag_id, action = awake_dag(api, name), "stop_now" if now else "stop"
    runs = api.runs(dag_id)
    waits = _stopping(api, dag_id, runs, action)
    return dag_id, waits or _trigger_once(api, dag_id, _id_of(action, runs), {"action": action})


def awake_dag(api: AirflowApi, name: str) -> str:
    """Return the id of the DAG that serves a model, if it is there and runs.

    Raises:
        NotFoundError, RefusedError, RequestError, TemporaryError: as `wake`.
    """
    check_name(name)
    dag_id = f"serve_{name}"
    dag = api.dag(dag_id)
    if dag is None:
        raise NotFoundError(
            f"Airflow has no DAG {dag_id}: give {name} hours or idle_after in the catalog; nothing else stops it."
        )
    if dag.get("is_paused"):
        raise RefusedError(f"{dag_id} is paused, so its runs wait: unpause it in Airflow, then ask again.", 409)
    return dag_id


def _asked_just_now(runs: list[dict[str, Any]]) -> str | None:
    """Return the newest run if somebody woke the model within a minute."""
    newest = runs[0] if runs else {}
    asked = newest.get("run_after") or newest.get("queued_at")
    if not asked or not str(newest["dag_run_id"]).startswith("wake__"):
        return None
    age = datetime.now(UTC) - datetime.fromisoformat(asked)
    return str(newest["dag_run_id"]) if newest["state"] in UNDER_WAY and age < JUST_NOW else None


def _stopping(api: AirflowApi, dag_id: str, runs: list[dict[str, Any]], action: str) -> str | None:
    """Return the run that does this already, unless an opening has overruled it; None likewise when there is none."""
    for number, run in enumerate(runs):
        asked = _action_of(run)
        if asked == action and run["state"] in UNDER_WAY:
            # Who came before it may have waited: the run of the hours for its opening, a wake for the end of a window.
            older = [one for one in runs[number + 1 :] if _action_of(one) == "open"]
            since = datetime.fromisoformat(run["run_after"])
            if datetime.now(UTC) - since > WAITING:
                return None
            return None if any(_acted(api, dag_id, one, since) for one in older) else str(run["dag_run_id"])
        if asked == "open":
            return None  # whatever became of it: at least it left a note
    return None


def _acted(api: AirflowApi, dag_id: str, run: dict[str, Any], since: datetime) -> bool:
    """Whether a run opened its window, or left its note for the run that keeps one, after a moment; who may not know
    that, as a role that may trigger and read no results, takes it for so, and another stop is asked for.
    """
    if run["state"] not in UNDER_WAY and datetime.fromisoformat(run.get("end_date") or run["run_after"]) <= since:
        return False
    try:
        opened = api.result(dag_id, str(run["dag_run_id"]), OPEN_TASK)
    except (RefusedError, TemporaryError):
        return True
    if isinstance(opened, dict) and opened.get("requested"):
        return moment(opened["requested"]) > since
    return run["state"] not in UNDER_WAY


def _action_of(run: dict[str, Any]) -> str:
    return str((run.get("conf") or {}).get("action") or "open")


def _id_of(what: str, runs: list[dict[str, Any]]) -> str:
    """Return the id of a run: the same for all who saw the same runs, and new once a run came or ended."""
    seen = "|".join(f"{run['dag_run_id']} {run['state'] in UNDER_WAY}" for run in runs[:5])
    return f"{what}__{hashlib.sha256(seen.encode()).hexdigest()[:12]}"


def _trigger_once(api: AirflowApi, dag_id: str, run_id: str, conf: dict[str, str]) -> str:
    try:
        return api.trigger(dag_id, conf, run_id=run_id)
    except RefusedError as error:
        if error.status != 409:
            raise
        return run_id


def _eta(api: AirflowApi, dag_id: str, runs: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Return what earlier runs say: that one is open since, or how long a cold start takes.

    A run knew that when its window began, and knows it better at its end, when its own is recorded.
    """
    for run in runs:
        opened = api.result(dag_id, str(run["dag_run_id"]), OPEN_TASK)
        if not isinstance(opened, dict) or opened.get("action") != "open":
            continue
        ending = run["state"] in UNDER_WAY and api.result(dag_id, str(run["dag_run_id"]), WATCH_TASK) is not None
        if run["state"] in UNDER_WAY and not ending:
            ready = api.result(dag_id, str(run["dag_run_id"]), PING_TASK) is not None
            return {"open": True, "answers": ready, "eta": opened.get("eta") or "", "window": opened.get("window")}
        closed = api.result(dag_id, str(run["dag_run_id"]), RECORD_TASK)
        known = closed if isinstance(closed, dict) and "expected_s" in closed else opened
        if (seconds := known.get("expected_s")) is not None:
            eta = text_of(datetime.now(UTC) + timedelta(seconds=float(seconds)))
            return {"open": False, "answers": False, "eta": eta, "expected_s": seconds}
    return _UNKNOWN


def _eta_words(eta: dict[str, Any]) -> str:
    if eta["answers"]:
        return f"window {eta['window']} is open, and the model answers."
    when = f"by {eta['eta']}" if eta["eta"] else "soon; Airflow knows of no cold start of it yet"
    return f"{'it is starting, and' if eta['open'] else 'it'} will probably answer {when}."
