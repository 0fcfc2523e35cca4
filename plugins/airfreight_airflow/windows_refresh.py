"""What `refresh_models` does in the worker: judge what the hub said, and say at its end what could not be looked at."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from airflow.sdk import get_current_context
from airflow.sdk.exceptions import AirflowSkipException

from airfreight.catalog import CATALOG, CatalogModel, survey_file
from airfreight.errors import FOR_GOOD, AirfreightError, RequestError
from airfreight.ledger_rules import Event, State
from airfreight.refresh import Seen, Try, Verdict, is_try_of, judge, source_of, tracked
from airfreight.serving import nearest
from airfreight_airflow import failures
from airfreight_airflow.promoting import GATED
from airfreight_airflow.reports import decoded
from airfreight_airflow.route import OPTIONAL, RESOLVE
from airfreight_airflow.settings import Settings, read_settings
from airfreight_airflow.windows_runs import failed_tasks
from airfreight_airflow.windows_store import release_ledger, through

DELIVER_DAG = "deliver_model"
LOOK_TASK, JUDGE_TASK = "look", "judge"
DELIVERING = tuple(task for task in (RESOLVE, *OPTIONAL) if task not in ("remove_volume", "roll_back", "report"))
"""Tasks of a delivery whose failure is the model's, in the order of the run; the others tidy up after it, and tell."""
_FOR_GOOD = tuple(kind.exit_code for kind in FOR_GOOD)

log = logging.getLogger(__name__)


def tracked_sources(catalog: Path = CATALOG) -> list[str]:
    """The branches that are looked at, for the arguments of `airfreight tips`; read when the DAG file is parsed."""
    return [str(model.hub_model) for model in tracked(list(survey_file(catalog).models))]


def skip_without_sources(context: Any) -> None:
    """Return if there is a branch to look at (a `pre_execute`); a pod that asks for nothing is not started."""
    if len(context["task"].arguments) <= len(("tips", "--result", "file")):
        raise AirflowSkipException("The catalog has no model with `refresh: daily` that tracks a branch.")


def judge_models(catalog: Path = CATALOG) -> list[dict[str, Any]]:
    """The `judge` task: which deliveries to start.

    Returns:
        For each, what `TriggerDagRunOperator` takes: `trigger_run_id` and `conf`.
    """
    context = get_current_context()
    try:
        verdicts = _verdicts(context, list(survey_file(catalog).models))
    except AirfreightError as error:
        failures.end_task(context, error)
    for verdict in verdicts:
        log.log(logging.WARNING if verdict.failed else logging.INFO, "%s", verdict)
    context["ti"].xcom_push(key="failed", value=[str(verdict) for verdict in verdicts if verdict.failed])
    return [{"trigger_run_id": one.run_id, "conf": dict(one.conf)} for one in verdicts if one.run_id]


def say_what_failed(catalog: Path = CATALOG) -> None:
    """The last task: fail when a task did, a model could not be looked at, or an entry of the catalog is wrong."""
    context = get_current_context()
    failed = list(context["ti"].xcom_pull(task_ids=JUDGE_TASK, key="failed") or [])
    failed += [f"{name} failed; look at its log." for name in failed_tasks(context)]
    failed += [str(problem) for one in survey_file(catalog).broken for problem in one.problems]
    if failed:
        failures.end_task(context, RequestError(" ".join(failed)))


def _verdicts(context: Any, models: list[CatalogModel]) -> list[Verdict]:
    asked = [str(name) for name in context["params"].get("models") or []]
    _refuse_unknown(asked, models)
    tips: Mapping[str, Any] = context["ti"].xcom_pull(task_ids=LOOK_TASK, key="tips") or {}
    site, now = read_settings(), datetime.now(tz=UTC)
    chosen = [model for model in tracked(models) if not asked or model.name in asked]
    found = []
    for model in chosen:
        try:
            seen = _seen(context, site, model, tips.get(str(model.hub_model)) or {})
            found.append(judge(model, seen, now, asked=model.name in asked))
        except AirfreightError as error:  # one model's ledger must not keep the others from their news
            found.append(Verdict(model.name, error.message, failed=True))
    return found


def _seen(context: Any, site: Settings, model: CatalogModel, tip: Mapping[str, str]) -> Seen:
    commit = tip.get("commit") or None
    if commit is None:
        return Seen(None, tip.get("problem") or "")
    ledger = release_ledger(site, site.target_namespace, model.name)
    with through(site):
        live = ledger.live()
        outcomes = ledger.outcomes(source_of(model, commit))
        rejected = {_run_of(event) for event in outcomes if event.state is State.REJECTED}
        source = ledger.read(live.release).source if live else None
        # Whoever delivers once more what is live chose it too: that is in the release's history, not in the pointer.
        chosen = ledger.entry(live.release) if live else None
    tries = _try_of(context, rejected)
    return Seen(
        commit,
        live=source,
        live_by=chosen.run if chosen else live.run if live else "",
        rejected=_rejected(model, commit, outcomes, tries),
        tries=tries,
    )


def _rejected(model: CatalogModel, commit: str, outcomes: Sequence[Event], tries: Callable[[str], Try]) -> str | None:
    """Why a gate rejected a commit as its entry is now, or None; `outcomes` are those of the commit, the newest first.

    Whatever fails after `deploy` is rolled back and recorded as a rejection, a cluster that was away for an hour as
    well; which it was, the failed task's exit code says. A delivery by hand says nothing of the entry, good or bad.
    """
    for event in outcomes:
        run = _run_of(event)
        if not is_try_of(run, model, commit):
            continue
        if event.state is State.LIVE:
            return None
        # Of a run that Airflow has forgotten nobody knows any more; then the ledger's word stands.
        known = tries(run)
        if known.state is None or known.refused:
            return event.cause or known.refused or "a gate"
    return None


def _run_of(event: Event) -> str:
    return event.run.removeprefix(f"{DELIVER_DAG}/")


def _refusal(context: Any, run: str, rejected: Collection[str]) -> str:
    """Why a delivery failed for good, by the first of its tasks that failed; "" when that was a passing cause.

    A task that was ended without an exit code, as by a lost machine, says nothing of the model. Nor does one from
    `deploy` on whose run the ledger does not know as rejected: it met another run, or what is about the cluster.

    Args:
        rejected: runs that the ledger knows as such.
    """
    states = context["ti"].get_task_states(dag_id=DELIVER_DAG, run_ids=[run]).get(run, {})
    # Of one in several pods Airflow adds the number to its name.
    failed = {re.sub(r"_\d+$", "", task) for task, state in states.items() if str(state) == "failed"}
    for task_id in DELIVERING:
        if task_id not in failed:
            continue
        if task_id in GATED and run not in rejected:
            return ""
        pulled = context["ti"].xcom_pull(task_ids=task_id, dag_id=DELIVER_DAG, run_id=run, key=failures.FAILURE_KEY)
        for left in pulled if isinstance(pulled, list) else [pulled]:
            failure = decoded(left)
            if failure.get("exit_code") in _FOR_GOOD:
                return f"{task_id}: {failure.get('message') or 'look at its log'}"
        return ""
    return ""


def _refuse_unknown(asked: list[str], models: list[CatalogModel]) -> None:
    names = [model.name for model in tracked(models)]
    for name in asked:
        if name not in names:
            raise RequestError(f'"{name}" is no model with `refresh: daily` that tracks a branch{nearest(name, names)}')


def _try_of(context: Any, rejected: Collection[str]) -> Callable[[str], Try]:
    """Return what looks at runs of `deliver_model`."""

    def look(run_id: str) -> Try:
        if not context["ti"].get_dr_count(dag_id=DELIVER_DAG, run_ids=[run_id]):
            return Try(None)
        run = _run(run_id)
        state = str(getattr(run.state, "value", run.state))
        return Try(state, run.end_date, _refusal(context, run_id, rejected) if state == "failed" else "")

    return look


def _run(run_id: str) -> Any:
    # Airflow 3.3 gives tasks no public way to the end of another run, only to its state; this is what its own use.
    from airflow.sdk.execution_time.comms import GetDagRun
    from airflow.sdk.execution_time.task_runner import SUPERVISOR_COMMS

    return SUPERVISOR_COMMS.send(GetDagRun(dag_id=DELIVER_DAG, run_id=run_id))
